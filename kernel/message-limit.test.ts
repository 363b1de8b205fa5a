import { ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { expect, test } from "vitest";
import { limitMessages } from "#kernel/message-limit.ts";

function envelope(length: number): Buffer {
  const bytes = Buffer.alloc(5 + length, 7);
  bytes.writeUInt8(0, 0);
  bytes.writeUInt32BE(length, 1);
  return bytes;
}

async function pass(chunks: readonly Uint8Array[], enveloped: boolean, lengthHint = 0): Promise<number | string> {
  async function* body() {
    yield* chunks;
  }
  let total = 0;
  try {
    for await (const chunk of limitMessages(body(), { enveloped, maxBytes: 10, lengthHint })) total += chunk.length;
  } catch (error) {
    return ConnectError.from(error).rawMessage;
  }
  return total;
}

test("passes enveloped messages up to the limit each, however the bytes are cut", async () => {
  const cuts = fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(10), { maxLength: 6 }), cuts, async (lengths, sizes) => {
      const bytes = Buffer.concat(lengths.map(envelope));
      const chunks: Buffer[] = [];
      for (let at = 0, cut = 0; at < bytes.length; cut++) {
        const size = sizes[cut % sizes.length] ?? 1;
        chunks.push(bytes.subarray(at, at + size));
        at += size;
      }
      expect(await pass(chunks, true)).toBe(bytes.length);
      const tooLong = [...chunks, ...[...envelope(11)].map((byte) => Buffer.of(byte))];
      expect(await pass(tooLong, true)).toMatch(/the limit is 10 bytes and it has 11 bytes/);
    }),
    { numRuns: 50, seed: 1 },
  );
});

test("bounds a body that is one message as a whole, before the first byte when its length is told", async () => {
  expect(await pass([Buffer.alloc(6), Buffer.alloc(4)], false)).toBe(10);
  expect(await pass([Buffer.alloc(6), Buffer.alloc(5)], false)).toMatch(/the limit is 10 bytes and it has more/);
  expect(await pass([], false, 11)).toMatch(/it has 11 bytes/);
});
