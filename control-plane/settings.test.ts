import { expect, test } from "vitest";
import { checkSettings, controlPlaneSettings } from "./settings.ts";

test("the defaults fit each other", () => {
  const { leaseMs, heartbeatIntervalMs } = controlPlaneSettings;
  expect(() =>
    checkSettings({ leaseMs: leaseMs.default, heartbeatIntervalMs: heartbeatIntervalMs.default }),
  ).not.toThrow();
});

test("a heartbeat interval above a third of the lease is refused, by both names", () => {
  expect(() => checkSettings({ leaseMs: 9_000, heartbeatIntervalMs: 3_001 })).toThrow(/--heartbeat-interval.*--lease/);
});

test("a database URL is never printed", () => {
  expect(controlPlaneSettings.databaseUrl.secret).toBe(true);
});
