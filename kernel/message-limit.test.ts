import fc from "fast-check";
import { expect, test } from "vitest";
import { MeshError } from "#kernel/mesh-error.ts";
import { readEnvelopes, readWhole } from "#kernel/message-limit.ts";

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
  try {
    if (!enveloped) return (await readWhole(body(), 10, lengthHint)).length;
    let total = 0;
    for await (const { flags, payload } of readEnvelopes(body(), 10)) {
      expect(flags).toBe(0);
      expect(payload).toEqual(Buffer.alloc(payload.length, 7));
      total += payload.length + 5;
    }
    return total;
  } catch (error) {
    return MeshError.from(error).message;
  }
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

test.each([
  [[Buffer.of(0, 0)], /its last message has 2 of 5 header bytes/],
  [[envelope(3), envelope(8).subarray(0, 6)], /7 bytes of its last message are missing/],
])("says what is missing of a body that ends early", async (chunks, expected) => {
  expect(await pass(chunks, true)).toMatch(expected);
});
