import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { errorTable } from "#kernel/error-table.ts";
import { MeshError } from "#kernel/mesh-error.ts";

describe("MeshError", () => {
  test.each(Object.keys(errorTable).map(Number))("of reason %d survives the way through a ConnectError", (reason) => {
    const sent = new MeshError(reason as Reason, "what to do", { field: "a.b", limit: "3 tokens", retryAfterMs: 7.4 });
    const error = sent.toConnectError("call_1");
    expect(error.code).toBe(sent.row.code);
    const received = MeshError.from(error);
    expect(received).toMatchObject({ reason, message: "what to do", field: "a.b", limit: "3 tokens", retryAfterMs: 7 });
  });

  // The bytes are grpc-go's for the same durations.
  test.each([
    [1, "0a0410c0843d"],
    [250, "0a051080e59a77"],
    [3_000, "0a020803"],
    [90_250, "0a07085a1080e59a77"],
  ])("tells gRPC clients in a google.rpc.RetryInfo to wait %d ms", (retryAfterMs, bytes) => {
    const { details } = new MeshError(Reason.RATE_LIMITED, "slow down", { retryAfterMs }).toConnectError();
    expect(details).toHaveLength(2);
    expect(details[1]).toEqual({ type: "google.rpc.RetryInfo", value: Uint8Array.from(Buffer.from(bytes, "hex")) });
  });

  test("has no google.rpc.RetryInfo when there is no advice", () => {
    expect(new MeshError(Reason.RATE_LIMITED, "slow down").toConnectError().details).toHaveLength(1);
  });

  test("comes back as itself", () => {
    const error = new MeshError(Reason.CANCELLED, "gone");
    expect(MeshError.from(error)).toBe(error);
  });

  test("keeps the text of a foreign error from the caller and its cause for the log", () => {
    const cause = new Error("password of the database");
    const error = MeshError.from(cause);
    expect(error.reason).toBe(Reason.INTERNAL);
    expect(error.message).not.toContain("password");
    expect(error.cause).toBe(cause);
  });

  test.each(Object.values(Code).filter((code) => typeof code === "number"))("understands a bare code %d", (code) => {
    const error = MeshError.from(new ConnectError("text", code));
    expect(errorTable).toHaveProperty(String(error.reason));
    expect(error.message).toBe("text");
  });
});
