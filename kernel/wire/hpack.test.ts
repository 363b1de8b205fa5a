import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ByteBuffer } from "#kernel/wire/byte-buffer.ts";
import type { HeaderList } from "#kernel/wire/header-list.ts";
import { HpackDecoder } from "#kernel/wire/hpack-decoder.ts";
import { HpackEncoder, type HeaderFields, encodeBlock } from "#kernel/wire/hpack-encoder.ts";
import { huffmanDecode, huffmanEncode, huffmanLength } from "#kernel/wire/huffman.ts";
import { wireLimits } from "#kernel/wire/limits.ts";
import { WireError } from "#kernel/wire/wire-error.ts";

const limits = wireLimits();

function decode(decoder: HpackDecoder, hexOrBytes: string | Uint8Array): HeaderList {
  const bytes =
    typeof hexOrBytes === "string" ? Buffer.from(hexOrBytes.replaceAll(" ", ""), "hex") : Buffer.from(hexOrBytes);
  decoder.decode(bytes, 0, bytes.length);
  return decoder.finish();
}

function encode(encoder: HpackEncoder, fields: HeaderFields): Buffer {
  const out = new ByteBuffer();
  encoder.encode(fields, out);
  return Buffer.from(out.bytes.subarray(out.start, out.end));
}

/** What it returns or throws. */
function attempt(work: () => unknown): unknown {
  try {
    return work();
  } catch (error) {
    return error;
  }
}

const byteString = fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)) });
const value = fc
  .string({ unit: fc.integer({ min: 0x20, max: 0xff }).map((code) => String.fromCharCode(code)), maxLength: 300 })
  .map((text) => text.trim().replaceAll(/^[ \t]+|[ \t]+$/g, ""));
const name = fc.oneof(
  fc.stringMatching(/^[a-z][a-z0-9-]{0,20}$/),
  fc.constantFrom("content-type", "authorization", "user-agent", "grpc-timeout", "x-a"),
);
const fields = fc
  .array(fc.tuple(name, value), { maxLength: 12 })
  .map((list) =>
    list.filter(
      ([name]) => !["connection", "te", "upgrade", "content-length", "keep-alive", "transfer-encoding"].includes(name),
    ),
  );

describe("Huffman", () => {
  test("decodes what it encodes, for every byte", () => {
    fc.assert(
      fc.property(byteString, (text) => {
        const out = new ByteBuffer();
        huffmanEncode(text, out);
        expect(out.length).toBe(huffmanLength(text));
        expect(huffmanDecode(out.bytes, out.start, out.end)).toBe(text);
      }),
      { numRuns: 300 },
    );
  });

  test("gives the bytes of RFC 7541, C.4.1", () => {
    const out = new ByteBuffer();
    huffmanEncode("www.example.com", out);
    expect(out.bytes.toString("hex", 0, out.end)).toBe("f1e3c2e5f23a6ba0ab90f4ff");
  });

  test.each([
    ["padding of a byte and more", "f1e3c2e5f23a6ba0ab90f4ffff"],
    ["padding of zeros", "00"],
    ["end-of-string", "ffffffff"],
  ])("refuses %s", (_what, hex) => {
    const bytes = Buffer.from(hex, "hex");
    expect(() => huffmanDecode(bytes, 0, bytes.length)).toThrow(WireError);
  });
});

describe("a decoder", () => {
  test("reads the requests of RFC 7541, C.4, on one table", () => {
    const decoder = new HpackDecoder(limits);
    expect(decode(decoder, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")).toMatchObject({
      method: "GET",
      scheme: "http",
      path: "/",
      authority: "www.example.com",
    });
    expect(decode(decoder, "8286 84be 5886 a8eb 1064 9cbf").fields).toEqual(["cache-control", "no-cache"]);
    const third = decode(decoder, "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
    expect(third).toMatchObject({ scheme: "https", path: "/index.html", authority: "www.example.com" });
    expect(third.get("custom-key")).toBe("custom-value");
  });

  test("gives the same list however its block was split", () => {
    fc.assert(
      fc.property(fields, (list) => {
        const bytes = encode(new HpackEncoder(), list);
        const whole = decode(new HpackDecoder(limits), bytes).fields;
        for (let at = 0; at <= bytes.length; at++) {
          const decoder = new HpackDecoder(limits);
          decoder.decode(bytes, 0, at);
          decoder.decode(bytes, at, bytes.length);
          expect(decoder.finish().fields).toEqual(whole);
        }
        const bytewise = new HpackDecoder(limits);
        for (let at = 0; at < bytes.length; at++) bytewise.decode(bytes, at, at + 1);
        expect(bytewise.finish().fields).toEqual(whole);
      }),
      { numRuns: 60 },
    );
  });

  test("throws nothing but protocol errors, whatever it is fed", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 4 }), (blocks) => {
        const decoder = new HpackDecoder(limits);
        try {
          for (const block of blocks) decode(decoder, block);
        } catch (error) {
          if (!(error instanceof WireError)) throw error;
        }
      }),
      { numRuns: 3_000 },
    );
  });

  test("reads a block that begins as the last one did as it reads any other", () => {
    // Indexed in either table; literals with indexing, without and never; a size update.
    const parts = ["82", "84", "be", "bf", "c0", "400161023132", "400161023133", "0001620131", "1f080378797a", "3f70"];
    const block = fc
      .array(fc.constantFrom(...parts), { maxLength: 6 })
      .map((some) => Buffer.from(some.join(""), "hex"));
    fc.assert(
      fc.property(fc.array(block, { minLength: 2, maxLength: 8 }), (blocks) => {
        const decoder = new HpackDecoder(limits);
        const forgetful = new HpackDecoder(limits);
        const entries = Buffer.from("400163013140016401314001650131", "hex");
        for (const bytes of [entries, ...blocks]) {
          const list = attempt(() => decode(decoder, bytes));
          // With nothing in its first piece, a block begins like no other.
          forgetful.decode(bytes, 0, 0);
          expect(list).toEqual(attempt(() => decode(forgetful, bytes)));
          if (list instanceof Error) return;
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test.each([
    ["index 0", "80"],
    ["an index beyond both tables", "be"],
    ["an integer without end", "ffffffffffffffff"],
    ["a table larger than allowed", "3fe23f"],
    ["a size update behind a field", "8220"],
    ["a block that ends inside a field", "4085"],
  ])("refuses %s", (_what, hex) => {
    expect(() => decode(new HpackDecoder(limits), hex)).toThrow(WireError);
  });

  test("marks a list over its limits and stays in step", () => {
    const decoder = new HpackDecoder(wireLimits({ maxHeaderListBytes: 100, maxHeaderFields: 5 }));
    const encoder = new HpackEncoder();
    expect(decode(decoder, encode(encoder, [["a", "x".repeat(90)]])).excess).toBe("maxHeaderListBytes");
    expect(
      decode(
        decoder,
        encode(encoder, [
          ["b", "1"],
          ["c", "2"],
        ]),
      ).fields,
    ).toEqual(["b", "1", "c", "2"]);
    const after = decode(
      decoder,
      encode(encoder, [
        ["b", "1"],
        ["c", "2"],
      ]),
    );
    expect(after.fields).toEqual(["b", "1", "c", "2"]);
  });

  test("gives up on a bomb: one large entry, referred to again and again", () => {
    const decoder = new HpackDecoder(limits);
    const bomb = Buffer.concat([encode(new HpackEncoder(), [["bomb", "x".repeat(900)]]), Buffer.alloc(16_000, 0xbe)]);
    expect(() => decode(decoder, bomb)).toThrow(/far above/);
  });

  test("judges a string by its length before any of it arrives", () => {
    const decoder = new HpackDecoder(limits);
    const start = Buffer.from("4001617fffff7f", "hex");
    expect(() => decoder.decode(start, 0, start.length)).toThrow(/header string/);
  });
});

describe("an encoder", () => {
  test("is undone by a decoder, over many blocks and table sizes", () => {
    const step = fc.record({ list: fields, tableBytes: fc.option(fc.nat(5_000), { nil: undefined }) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 8 }), (steps) => {
        const encoder = new HpackEncoder();
        const decoder = new HpackDecoder(limits);
        for (const { list, tableBytes } of steps) {
          if (tableBytes !== undefined) encoder.setPeerLimit(tableBytes);
          expect(decode(decoder, encode(encoder, list)).fields).toEqual(list.flat());
        }
      }),
      { numRuns: 200 },
    );
  });

  test("is undone where lists begin with the same objects", () => {
    const own = fc.tuple(fc.constantFrom("x-request-id", "x-a", "date"), value);
    const common: HeaderFields = [
      ["x-b", "1"],
      ["x-c", "2"],
      ["x-d", "3".repeat(900)],
    ];
    const step = fc.record({
      list: fc
        .tuple(fc.constantFrom(0, 1, 2, 2, 2, 3), fc.array(own, { maxLength: 2 }))
        .map(([count, rest]): HeaderFields => [...common.slice(0, count), ...rest]),
      tableBytes: fc.option(fc.constantFrom(0, 40, 2_000, 4_096), { nil: undefined, freq: 8 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        const encoder = new HpackEncoder();
        const decoder = new HpackDecoder(limits);
        for (const { list, tableBytes } of steps) {
          if (tableBytes !== undefined) encoder.setPeerLimit(tableBytes);
          expect(decode(decoder, encode(encoder, list)).fields).toEqual(list.flat());
        }
      }),
      { numRuns: 500 },
    );
  });

  test("spends one byte on a field that it sent before", () => {
    const encoder = new HpackEncoder();
    encode(encoder, [["user-agent", "wire/1"]]);
    expect(encode(encoder, [["user-agent", "wire/1"]])).toHaveLength(1);
  });

  test("never indexes a secret", () => {
    const encoder = new HpackEncoder();
    const first = encode(encoder, [["authorization", "Bearer abc"]]);
    expect((first[0] ?? 0) >> 4).toBe(1);
    expect(encode(encoder, [["authorization", "Bearer abc"]])).toEqual(first);
  });

  test("has blocks that any connection can send at any time", () => {
    const block = encodeBlock([
      [":status", "200"],
      ["content-type", "application/grpc"],
    ]);
    const decoder = new HpackDecoder(limits);
    for (let time = 0; time < 3; time++) {
      expect(decode(decoder, block.bytes)).toMatchObject({
        status: "200",
        fields: ["content-type", "application/grpc"],
      });
    }
  });

  test.each([
    ["a line break", "x-a", "1\r\nx-b: 2"],
    ["an upper-case name", "X-A", "1"],
    ["an empty name", "", "1"],
    ["a character beyond a byte", "x-a", "\u{1f600}"],
  ])("refuses %s and appends nothing", (_what, name, value) => {
    const out = new ByteBuffer();
    expect(() =>
      new HpackEncoder().encode(
        [
          ["x", "1"],
          [name, value],
        ],
        out,
      ),
    ).toThrow(TypeError);
    expect(out.length).toBe(0);
  });
});
