import { type Random, randomInt } from "#kernel/random.ts";
import { FrameType, frameHeaderBytes } from "#kernel/wire/frame.ts";
import { rawFrame, settingsPayload, uint32 } from "#kernel/wire/raw-peer.ts";

/** Inputs grow no longer: below every window, so that flow control does not depend on how the bytes were split. */
const longest = 6_000;

const edgeBytes = [
  0, 1, 2, 3, 4, 5, 0x0f, 0x1f, 0x20, 0x3f, 0x40, 0x7e, 0x7f, 0x80, 0x82, 0xbe, 0xbf, 0xc0, 0xfe, 0xff,
];
const edgeWords = [
  0, 1, 4_096, 16_383, 16_384, 16_385, 65_535, 65_536, 0x7fff_fffe, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff,
];
const edgeFlags = [0, 1, 4, 5, 8, 9, 0x0d, 0x20, 0x24, 0x25, 0x2d, 0xff];

type Mutation = (input: Buffer, random: Random, other: Buffer) => Buffer;

const byteMutations: readonly Mutation[] = [
  (input, random) => changed(input, random, (bytes, at) => (bytes[at] ?? 0) ^ (1 << randomInt(random, 8))),
  (input, random) => changed(input, random, () => pick(edgeBytes, random)),
  (input, random) => changed(input, random, () => randomInt(random, 256)),
  (input, random) => changed(input, random, (bytes, at) => (bytes[at] ?? 0) + (randomInt(random, 2) === 0 ? 1 : 255)),
  (input, random) => {
    const at = randomInt(random, input.length + 1);
    const run = Buffer.alloc(
      1 + randomInt(random, 12),
      randomInt(random, 4) === 0 ? randomInt(random, 256) : pick(edgeBytes, random),
    );
    return Buffer.concat([input.subarray(0, at), run, input.subarray(at)]);
  },
  (input, random) => {
    const [from, to] = range(input.length, random);
    return Buffer.concat([input.subarray(0, from), input.subarray(to)]);
  },
  (input, random) => {
    const [from, to] = range(input.length, random);
    const times = 1 + randomInt(random, randomInt(random, 4) === 0 ? 40 : 2);
    const repeated = Array.from({ length: times }, () => input.subarray(from, to));
    return Buffer.concat([input.subarray(0, to), ...repeated, input.subarray(to)]);
  },
  (input, random, other) => {
    const [from, to] = range(other.length, random);
    const at = randomInt(random, input.length + 1);
    return Buffer.concat([input.subarray(0, at), other.subarray(from, to), input.subarray(at)]);
  },
  (input, random) => {
    if (input.length < 4) return input;
    const bytes = Buffer.from(input);
    bytes.writeUInt32BE(pick(edgeWords, random), randomInt(random, input.length - 3));
    return bytes;
  },
];

/** Of frames, each a whole one with its header. */
type FrameMutation = (frames: Buffer[], random: Random, others: readonly Buffer[]) => void;

const frameMutations: readonly FrameMutation[] = [
  (frames, random) => void frames.splice(randomInt(random, frames.length), 1),
  (frames, random) => void frames.splice(randomInt(random, frames.length), 0, pick(frames, random)),
  (frames, random, others) => void frames.splice(randomInt(random, frames.length + 1), 0, pick(others, random)),
  (frames, random) => void frames.splice(randomInt(random, frames.length + 1), 0, freshFrame(random)),
  (frames, random) => changeFrame(frames, random, (frame) => (frame[3] = randomInt(random, 12))),
  (frames, random) => changeFrame(frames, random, (frame) => (frame[4] = pick(edgeFlags, random))),
  (frames, random) => changeFrame(frames, random, (frame) => frame.writeUInt32BE(randomInt(random, 14), 5)),
  (frames, random) => {
    const at = randomInt(random, frames.length);
    const [first] = frames.splice(randomInt(random, frames.length), 1);
    if (first) frames.splice(at, 0, first);
  },
  // The payload alone; its length is told as it is.
  (frames, random, others) => {
    const at = randomInt(random, frames.length);
    const frame = frames[at];
    if (!frame) return;
    const payload = pick(byteMutations, random)(
      frame.subarray(frameHeaderBytes),
      random,
      pick(others, random).subarray(frameHeaderBytes),
    );
    frames[at] = rawFrame(frame[3] ?? 0, frame[4] ?? 0, frame.readUInt32BE(5), payload.subarray(0, longest));
  },
];

/** A few changes at random. `framesFrom`: the input is HTTP/2 frames from there on, and mostly stays so. */
export function mutate(input: Buffer, other: Buffer, framesFrom: number | undefined, random: Random): Buffer {
  let bytes = input;
  for (let left = 1 + randomInt(random, 4); left > 0; left--) {
    const byFrames = framesFrom !== undefined && randomInt(random, 5) > 0;
    bytes = byFrames
      ? mutateFrames(bytes, other, framesFrom, random)
      : pick(byteMutations, random)(bytes, random, other);
  }
  return bytes.length > longest ? bytes.subarray(0, longest) : bytes;
}

function mutateFrames(input: Buffer, other: Buffer, from: number, random: Random): Buffer {
  const frames = framesOf(input.subarray(from));
  const others = framesOf(other.subarray(from));
  if (frames.length === 0) frames.push(freshFrame(random));
  pick(frameMutations, random)(frames, random, others.length > 0 ? others : frames.slice());
  return Buffer.concat([input.subarray(0, from), ...frames]);
}

/** What is left over at the end, too short for its length, is taken as a frame of its own if it has a header. */
export function framesOf(bytes: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 0; bytes.length - at >= frameHeaderBytes;) {
    const end = Math.min(bytes.length, at + frameHeaderBytes + bytes.readUIntBE(at, 3));
    frames.push(bytes.subarray(at, end));
    at = end;
  }
  return frames;
}

function freshFrame(random: Random): Buffer {
  const streamId = randomInt(random, 12);
  const word = uint32(pick(edgeWords, random));
  switch (randomInt(random, 6)) {
    case 0:
      return rawFrame(FrameType.SETTINGS, 0, 0, settingsPayload([1 + randomInt(random, 6), pick(edgeWords, random)]));
    case 1:
      return rawFrame(FrameType.WINDOW_UPDATE, 0, streamId, word);
    case 2:
      return rawFrame(FrameType.RST_STREAM, 0, streamId, word);
    case 3:
      return rawFrame(FrameType.GOAWAY, 0, 0, Buffer.concat([uint32(streamId), word]));
    case 4:
      return rawFrame(FrameType.PING, randomInt(random, 2), 0, Buffer.from("hm-drain"));
    default:
      return rawFrame(FrameType.DATA, pick(edgeFlags, random), streamId, Buffer.alloc(randomInt(random, 40)));
  }
}

function changeFrame(frames: Buffer[], random: Random, change: (frame: Buffer) => void): void {
  const at = randomInt(random, frames.length);
  const copy = Buffer.from(frames[at] ?? []);
  change(copy);
  frames[at] = copy;
}

function changed(input: Buffer, random: Random, byte: (bytes: Buffer, at: number) => number): Buffer {
  if (input.length === 0) return Buffer.of(randomInt(random, 256));
  const bytes = Buffer.from(input);
  const at = randomInt(random, bytes.length);
  bytes[at] = byte(bytes, at);
  return bytes;
}

function range(length: number, random: Random): [from: number, to: number] {
  const from = randomInt(random, length + 1);
  // Short ones mostly.
  const most = randomInt(random, 3) === 0 ? length - from : Math.min(16, length - from);
  return [from, from + randomInt(random, most + 1)];
}

export function pick<T>(list: readonly T[], random: Random): T {
  return list[randomInt(random, list.length)] as T;
}
