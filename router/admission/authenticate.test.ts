import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { type Key, KeySchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { createApiKey } from "#kernel/api-key.ts";
import { ManualClock } from "#kernel/clock.ts";
import { authenticate } from "./authenticate.ts";

const key = createApiKey();

function attempt(authorization: string | null | undefined, change: { role?: KeyRole; expiresAtMs?: bigint } = {}) {
  const known: Key = create(KeySchema, {
    keyId: key.id,
    secretSha256: key.secretSha256,
    role: KeyRole.INFERENCE,
    projectId: "project-1",
    ...change,
  });
  return authenticate(authorization, new Map([[key.id, known]]), new ManualClock(1_000));
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
});
