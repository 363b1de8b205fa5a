import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { type Key, KeySchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { createApiKey } from "#kernel/api-key.ts";
import { ManualClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { Authenticator } from "./authenticate.ts";

const key = createApiKey();

interface Change {
  readonly role?: KeyRole;
  readonly expiresAtMs?: bigint;
  readonly secretSha256?: Uint8Array;
}

function tableOf(change: Change = {}): ReadonlyMap<string, Key> {
  const { id: keyId, secretSha256 } = key;
  const known = { keyId, secretSha256, role: KeyRole.INFERENCE, projectId: "project-1", ...change };
  return new Map([[keyId, create(KeySchema, known)]]);
}

function authenticatorAt(clock = new ManualClock(1_000), maxRememberedKeys = 2, metrics = new Metrics("test")) {
  return new Authenticator({ clock, maxRememberedKeys, metrics });
}

function attempt(authorization: string | null | undefined, change: Change = {}) {
  return authenticatorAt().authenticate(authorization, tableOf(change));
}

const refusal = (reason: Reason) => expect.objectContaining({ reason });

describe("authentication", () => {
  test("tells whose key it is", () => {
    expect(attempt(`Bearer ${key.text}`)).toEqual({ keyId: key.id, projectId: "project-1" });
  });

  test.each([
    ["no header", undefined],
    ["another scheme", `Basic ${key.text}`],
    ["another form", "Bearer sk-123"],
    ["an unknown key", `Bearer ${createApiKey().text}`],
    ["a wrong secret", `Bearer ${key.text.slice(0, -1)}${key.text.endsWith("0") ? "1" : "0"}`],
  ])("refuses %s", (_name, authorization) => {
    expect(() => attempt(authorization)).toThrow(refusal(Reason.INVALID_API_KEY));
  });

  test("refuses a key from the moment it expires", () => {
    expect(() => attempt(`Bearer ${key.text}`, { expiresAtMs: 1_000n })).toThrow(refusal(Reason.INVALID_API_KEY));
    expect(() => attempt(`Bearer ${key.text}`, { expiresAtMs: 1_001n })).not.toThrow();
  });

  test("refuses a key of another role as permission denied", () => {
    expect(() => attempt(`Bearer ${key.text}`, { role: KeyRole.OPERATOR })).toThrow(refusal(Reason.PERMISSION_DENIED));
  });

  describe("of a key that was good before", () => {
    const header = `Bearer ${key.text}`;
    function second(change: Change, clock = new ManualClock(1_000)) {
      const authenticator = authenticatorAt(clock);
      authenticator.authenticate(header, tableOf({ expiresAtMs: 2_000n }));
      return (authorization = header) => authenticator.authenticate(authorization, tableOf(change));
    }

    test("tells whose it is now", () => {
      expect(second({})()).toEqual({ keyId: key.id, projectId: "project-1" });
    });

    test("refuses it when its secret has changed, it is of another role, or it has expired", () => {
      const { secretSha256 } = createApiKey();
      expect(second({ secretSha256 })).toThrow(refusal(Reason.INVALID_API_KEY));
      expect(second({ role: KeyRole.OPERATOR })).toThrow(refusal(Reason.PERMISSION_DENIED));
      expect(second({ expiresAtMs: 900n })).toThrow(refusal(Reason.INVALID_API_KEY));
    });

    test("refuses it when it is revoked, and every other secret of it", () => {
      const authenticator = authenticatorAt();
      authenticator.authenticate(header, tableOf());
      expect(() => authenticator.authenticate(header, new Map())).toThrow(refusal(Reason.INVALID_API_KEY));
      const other = `${header.slice(0, -1)}${header.endsWith("0") ? "1" : "0"}`;
      expect(() => authenticator.authenticate(other, tableOf())).toThrow(refusal(Reason.INVALID_API_KEY));
    });

    test.each([0, 1, 2])("remembers at most %i, and all are known as ever", async (maxRememberedKeys) => {
      const metrics = new Metrics("test");
      const clock = new ManualClock(1_000);
      const authenticator = authenticatorAt(clock, maxRememberedKeys, metrics);
      const keys = [key, createApiKey(), createApiKey()];
      const fields = { role: KeyRole.INFERENCE, projectId: "p" };
      const table = new Map(
        keys.map(({ id, secretSha256 }) => [id, create(KeySchema, { keyId: id, secretSha256, ...fields })]),
      );
      for (const { id, text } of [...keys, ...keys]) {
        expect(authenticator.authenticate(`Bearer ${text}`, table)).toEqual({ keyId: id, projectId: "p" });
      }
      expect(clock.pendingTimers).toBe(Math.min(1, maxRememberedKeys));
      const forgotten = new RegExp(
        `router_remembered_keys_forgotten_total\\{[^}]*\\} ${[0, 5, 4][maxRememberedKeys]}\n`,
      );
      expect(await metrics.text()).toMatch(forgotten);
    });

    test("keeps its secret for a minute, and no timer after that", () => {
      const clock = new ManualClock(1_000);
      const again = second({}, clock);
      expect(clock.pendingTimers).toBe(1);
      clock.advance(60_000);
      expect(clock.pendingTimers).toBe(0);
      again();
      expect(clock.pendingTimers).toBe(1);
    });
  });
});
