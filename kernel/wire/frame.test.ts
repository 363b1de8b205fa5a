import fc from "fast-check";
import { expect, test } from "vitest";
import { Flag, FrameReader, type FrameSink, FrameType } from "#kernel/wire/frame.ts";
import { rawFrame } from "#kernel/wire/raw-peer.ts";
import { WireError } from "#kernel/wire/wire-error.ts";

/** Writes down what it is told; pieces of DATA are joined. */
class Recorder implements FrameSink {
  readonly stopped = false;
  readonly events: string[] = [];
  #data = "";

  frameStarts(type: number, flags: number, streamId: number, length: number): void {
    this.events.push(`starts ${type} ${flags} ${streamId} ${length}`);
  }

  frame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    this.events.push(`frame ${type} ${flags} ${streamId} ${bytes.toString("hex", start, end)}`);
  }

  dataStarts(flags: number, streamId: number, length: number): void {
    this.events.push(`data starts ${flags} ${streamId} ${length}`);
    this.#data = "";
  }

  data(bytes: Buffer, start: number, end: number): void {
    this.#data += bytes.toString("hex", start, end);
  }

  dataEnds(flags: number, streamId: number, padding: number): void {
    this.events.push(`data ends ${flags} ${streamId} ${padding} ${this.#data}`);
  }
}

function read(pieces: readonly Buffer[]): string[] {
  const recorder = new Recorder();
  const reader = new FrameReader(recorder);
  for (const piece of pieces) {
    // What was read is overwritten by the next read.
    const reused = Buffer.from(piece);
    reader.read(reused, 0, reused.length);
    reused.fill(0xee);
  }
  return recorder.events;
}

const payload = fc.uint8Array({ maxLength: 40 });
const streamId = fc.nat(0x7fff_ffff);
const plain = fc.tuple(fc.nat(12), fc.constantFrom(0, 1, 4), streamId, payload).map((parts) => rawFrame(...parts));
const padded = fc
  .tuple(streamId, payload, fc.nat(20))
  .map(([id, bytes, padding]) =>
    rawFrame(FrameType.DATA, Flag.PADDED, id, Buffer.concat([Buffer.from([padding]), bytes, Buffer.alloc(padding)])),
  );
const frames = fc.array(fc.oneof(plain, padded), { maxLength: 5 });

test("frames are the same however the bytes were split", () => {
  fc.assert(
    fc.property(frames, (list) => {
      const bytes = Buffer.concat(list);
      const whole = read([bytes]);
      for (let at = 0; at <= bytes.length; at++) {
        expect(read([bytes.subarray(0, at), bytes.subarray(at)])).toEqual(whole);
      }
      expect(read([...bytes].map((byte) => Buffer.from([byte])))).toEqual(whole);
    }),
    { numRuns: 40 },
  );
});

test("a reader throws nothing but protocol errors, whatever it is fed", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 6 }), (pieces) => {
      try {
        read(pieces.map((piece) => Buffer.from(piece)));
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
      }
    }),
    { numRuns: 3_000 },
  );
});

test("a padded frame tells its data and how much flow control counted beyond it", () => {
  const bytes = rawFrame(FrameType.DATA, Flag.PADDED | Flag.END_STREAM, 7, Buffer.from([2, 0xaa, 0xbb, 0, 0]));
  expect(read([bytes])).toEqual(["data starts 9 7 5", "data ends 9 7 3 aabb"]);
});

test.each([
  ["a frame larger than allowed", Buffer.from("004001000000000001", "hex")],
  ["DATA whose padding exceeds it", rawFrame(FrameType.DATA, Flag.PADDED, 1, Buffer.from([5, 0, 0]))],
  ["padded DATA without a pad length", rawFrame(FrameType.DATA, Flag.PADDED, 1)],
])("%s is refused", (_what, bytes) => {
  expect(() => read([bytes])).toThrow(WireError);
});
