import { brotliCompressSync, gzipSync } from "node:zlib";
import { Code, ConnectError } from "@connectrpc/connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GrpcMessageReader, grpcFault, grpcRefusal, grpcTrailers } from "#kernel/grpc-messages.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { HeaderFields } from "#kernel/wire/index.ts";
import { HeaderField } from "#kernel/wire/header-field.ts";
import { HeaderList } from "#kernel/wire/header-list.ts";
import { wireLimits } from "#kernel/wire/limits.ts";

function framed(payload: Uint8Array, flags = 0): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt32BE(payload.length, 1);
  header[0] = flags;
  return Buffer.concat([header, payload]);
}

function reading(maxBytes = 1_000, encoding?: string) {
  const messages: Buffer[] = [];
  const reader = new GrpcMessageReader({
    maxBytes,
    encoding,
    onMessage: (bytes, start, end) => void messages.push(Buffer.from(bytes.subarray(start, end))),
  });
  const push = (bytes: Buffer): void => reader.push(bytes, 0, bytes.length);
  return { reader, messages, push };
}

function faultOf(action: () => void): MeshError {
  try {
    action();
  } catch (error) {
    return MeshError.from(error);
  }
  throw new Error("nothing was thrown");
}

describe("a reader of gRPC messages", () => {
  const message = fc.record({ payload: fc.uint8Array({ maxLength: 300 }), compressed: fc.boolean() });

  test("gives the same messages however their bytes were split and moved", () => {
    fc.assert(
      fc.property(
        fc.array(message, { maxLength: 8 }),
        fc.array(fc.nat(600), { maxLength: 30 }),
        fc.nat(9),
        (sent, cuts, offset) => {
          const body = Buffer.concat(
            sent.map(({ payload, compressed }) => (compressed ? framed(gzipSync(payload), 1) : framed(payload))),
          );
          const { reader, messages } = reading(1_000, "gzip");
          for (let at = 0, cut = 0; at < body.length; cut++) {
            const next = Math.min(body.length, at + 1 + (cuts[cut] ?? 0));
            // As it comes from a socket: somewhere in a buffer that is used again.
            const lent = Buffer.alloc(offset + next - at + 3, 0xff);
            body.copy(lent, offset, at, next);
            reader.push(lent, offset, offset + next - at);
            lent.fill(0xee);
            at = next;
          }
          reader.finish();
          expect(messages.map((bytes) => bytes.toString("hex"))).toEqual(
            sent.map(({ payload }) => Buffer.from(payload).toString("hex")),
          );
        },
      ),
      { numRuns: 500 },
    );
  });

  test("throws nothing but faults of ours, whatever comes", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 40 })), (chunks) => {
        const { reader, push } = reading(50, "gzip");
        let fault: unknown;
        try {
          for (const chunk of chunks) push(Buffer.from(chunk));
          reader.finish();
        } catch (error) {
          fault = error;
        }
        expect(fault === undefined || fault instanceof MeshError || fault instanceof ConnectError).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  test("lends a message that came in one piece as it lies there", () => {
    const body = framed(Buffer.from("hello"));
    let lent: Buffer | undefined;
    const reader = new GrpcMessageReader({
      maxBytes: 10,
      encoding: undefined,
      onMessage: (bytes) => void (lent = bytes),
    });
    reader.push(body, 0, body.length);
    expect(lent).toBe(body);
  });

  test("takes gzip, brotli and what is not compressed on one stream", () => {
    for (const [encoding, compress] of [
      ["gzip", gzipSync],
      ["br", brotliCompressSync],
    ] as const) {
      const { messages, push } = reading(1_000, encoding);
      push(Buffer.concat([framed(compress(Buffer.from("one")), 1), framed(Buffer.from("two"))]));
      expect(messages.map(String)).toEqual(["one", "two"]);
    }
  });

  test("refuses a message by its length, before its bytes come", () => {
    const { push } = reading(100);
    expect(faultOf(() => push(Buffer.from([0, 0, 0, 0, 101])))).toMatchObject({
      reason: Reason.REQUEST_TOO_LARGE,
      limit: "100 bytes",
    });
  });

  test("refuses a message that grows past the limit", () => {
    const { push } = reading(100, "gzip");
    expect(faultOf(() => push(framed(gzipSync(Buffer.alloc(101)), 1)))).toMatchObject({
      reason: Reason.REQUEST_TOO_LARGE,
    });
  });

  test.each([
    ["unknown flags", undefined, framed(Buffer.from("x"), 2), Reason.INVALID_REQUEST],
    ["compression that no header names", undefined, framed(Buffer.from("x"), 1), Reason.INTERNAL],
    ["compression under identity", "identity", framed(Buffer.from("x"), 1), Reason.INTERNAL],
    ["compression that we do not have", "zstd", framed(Buffer.from("x"), 1), Reason.ROUTE_NOT_FOUND],
    ["data that is not compressed as it says", "gzip", framed(Buffer.from("x"), 1), Reason.INVALID_REQUEST],
  ])("refuses %s", (_what, encoding, body, reason) => {
    const { push } = reading(100, encoding);
    expect(faultOf(() => push(body)).reason).toBe(reason);
  });

  test.each([1, 4, 5, 7])("says that a stream ended within a message, after %i bytes", (count) => {
    const { reader, push } = reading();
    push(framed(Buffer.from("abcd")).subarray(0, count));
    expect(faultOf(() => reader.finish())).toMatchObject({
      reason: Reason.INVALID_REQUEST,
      message: expect.stringContaining("ends too early"),
    });
  });
});

function listOf(fields: HeaderFields): HeaderList {
  const list = new HeaderList(wireLimits());
  for (const [name, value] of fields) list.add(new HeaderField(name, value));
  expect(list.fault).toBeUndefined();
  return list;
}

describe("trailers", () => {
  test("of success are the status alone", () => {
    expect(grpcTrailers()).toEqual([["grpc-status", "0"]]);
  });

  test("of a fault carry code, message and detail, as connect-es reads them", () => {
    const error = new MeshError(Reason.RATE_LIMITED, "Slow down: 100% used.", { limit: "5 calls", retryAfterMs: 250 });
    const fields = grpcTrailers(error, "call-1");
    expect(fields).toContainEqual(["grpc-status", String(Code.ResourceExhausted)]);
    expect(fields).toContainEqual(["grpc-message", "Slow down: 100%25 used."]);
    const read = findTrailerError(new Headers(fields.map(([name, value]) => [name, value])));
    expect(read).toBeInstanceOf(ConnectError);
    expect(MeshError.from(read)).toMatchObject({ reason: Reason.RATE_LIMITED, limit: "5 calls", retryAfterMs: 250 });
  });

  test("bring any message over HTTP/2 and back", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (message) => {
        const fault = grpcFault(listOf(grpcTrailers(new MeshError(Reason.CONFLICT, message))));
        expect(fault).toMatchObject({ reason: Reason.CONFLICT, message: message.toWellFormed() });
      }),
    );
  });

  test.each([
    ["plain, with: punctuation; (and) 100~", "plain, with: punctuation; (and) 100~"],
    [" blanks ", "%20blanks%20"],
    [" ", "%20"],
    ["100%", "100%25"],
    ["line\nbreak", "line%0Abreak"],
    ["Grüße 🦊", "Gr%C3%BC%C3%9Fe %F0%9F%A6%8A"],
  ])("encode the message %j as %j", (message, encoded) => {
    expect(grpcTrailers(new MeshError(Reason.INTERNAL, message))).toContainEqual(["grpc-message", encoded]);
  });

  test("alone make a refusal with its status", () => {
    const error = new MeshError(Reason.INVALID_API_KEY, "No.");
    expect(grpcFault(listOf(grpcRefusal(error)))).toMatchObject({ reason: Reason.INVALID_API_KEY, message: "No." });
  });

  test("tell faults of peers that do not know our detail", () => {
    expect(grpcFault(listOf([["grpc-status", "0"]]))).toBeUndefined();
    expect(
      grpcFault(
        listOf([
          ["grpc-status", "8"],
          ["grpc-message", "slow%20down"],
        ]),
      ),
    ).toMatchObject({ reason: Reason.OVERLOADED, message: "slow down" });
    expect(grpcFault(listOf([]))).toMatchObject({ reason: Reason.INTERNAL });
    expect(
      grpcFault(
        listOf([
          ["grpc-status", "8"],
          ["grpc-message", "%zz"],
        ]),
      ),
    ).toBeInstanceOf(MeshError);
  });
});
