import { brotliCompressSync, gzipSync } from "node:zlib";
import { deepStrictEqual, ok } from "node:assert";
import { ConnectError } from "@connectrpc/connect";
import { GrpcMessageReader } from "#kernel/grpc-messages.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { ByteBuffer } from "#kernel/wire/byte-buffer.ts";
import { Flag, FrameReader, type FrameSink, FrameType, frameHeaderBytes } from "#kernel/wire/frame.ts";
import type { FuzzTarget } from "#kernel/wire/fuzz/loop.ts";
import { framesOf } from "#kernel/wire/fuzz/mutate.ts";
import { kindOf, lend, piecesOf, sameHoweverSplit } from "#kernel/wire/fuzz/pieces.ts";
import { HeaderAssembler } from "#kernel/wire/header-assembler.ts";
import type { HeaderList } from "#kernel/wire/header-list.ts";
import { HpackDecoder } from "#kernel/wire/hpack-decoder.ts";
import { HpackEncoder } from "#kernel/wire/hpack-encoder.ts";
import { wireLimits } from "#kernel/wire/limits.ts";
import { getRoot, headerBytes, rawFrame } from "#kernel/wire/raw-peer.ts";
import { WireError } from "#kernel/wire/wire-error.ts";

/** Small, so that short inputs reach them. */
const limits = wireLimits({ maxHeaderListBytes: 2_000, maxHeaderFields: 20 });

/** Writes down what a reader tells; pieces of DATA are joined. HEADERS go to an assembler where there is one. */
class Recorder implements FrameSink {
  readonly stopped = false;
  readonly events: string[] = [];
  readonly #assembler: HeaderAssembler | undefined;
  #data = "";

  constructor(assembler?: HeaderAssembler) {
    this.#assembler = assembler;
  }

  frameStarts(type: number, flags: number, streamId: number, length: number): void {
    this.#assembler?.checkOrder(type, streamId);
    this.events.push(`starts ${type} ${flags} ${streamId} ${length}`);
  }

  frame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    this.events.push(`frame ${type} ${flags} ${streamId} ${bytes.toString("hex", start, end)}`);
    if (!this.#assembler) return;
    const section =
      type === FrameType.HEADERS
        ? this.#assembler.start(flags, streamId, bytes, start, end, 1)
        : type === FrameType.CONTINUATION
          ? this.#assembler.proceed(flags, bytes, start, end)
          : undefined;
    if (section) this.events.push(`section ${section.streamId} ${section.end} ${textOf(section.list)}`);
  }

  dataStarts(flags: number, streamId: number, length: number): void {
    this.#assembler?.checkOrder(FrameType.DATA, streamId);
    this.events.push(`data starts ${flags} ${streamId} ${length}`);
    this.#data = "";
  }

  data(bytes: Buffer, start: number, end: number): void {
    ok(end > start, "DATA of no bytes is not told");
    this.#data += bytes.toString("hex", start, end);
  }

  dataEnds(flags: number, streamId: number, padding: number): void {
    this.events.push(`data ends ${flags} ${streamId} ${padding} ${this.#data}`);
  }
}

/** Runs until the end or a fault of the peer, which is the only thing that may be thrown. */
function faultOf(
  run: () => void,
  isFault: (error: unknown) => boolean = (error) => error instanceof WireError,
): string {
  try {
    run();
    return "";
  } catch (error) {
    if (!(error instanceof Error) || !isFault(error)) throw error;
    return error.message;
  }
}

function readFrames(input: Buffer, assembled: boolean): string {
  let kind = "";
  sameHoweverSplit(input, (pieces) => {
    const recorder = new Recorder(assembled ? new HeaderAssembler(limits) : undefined);
    const reader = new FrameReader(recorder);
    const fault = faultOf(() => {
      for (const piece of pieces) lend(piece, (bytes, start, end) => reader.read(bytes, start, end));
    });
    kind = kindOf(fault, recorder.events.length);
    return [...recorder.events, fault].join("\n");
  });
  return kind;
}

function textOf(list: HeaderList): string {
  const { method, scheme, authority, path, status, fields, fault, excess, count } = list;
  return JSON.stringify({ method, scheme, authority, path, status, fields, fault, excess, count });
}

/** Header blocks: as frames, whatever their type, so that their lengths stay right when they change. */
function blocks(...list: Buffer[]): Buffer {
  return Buffer.concat(list.map((block) => rawFrame(FrameType.HEADERS, Flag.END_HEADERS, 1, block)));
}

/** Block after block whole in one decoder and in pieces in another; what is well-formed goes through an encoder and back. */
function decodeBlocks(input: Buffer): string {
  const inOne = new HpackDecoder(limits);
  const inPieces = new HpackDecoder(limits);
  const encoder = new HpackEncoder();
  const back = new HpackDecoder(limits);
  let kind = "";
  for (const frame of framesOf(input)) {
    const block = frame.subarray(frameHeaderBytes);
    const whole = decodeBlock(inOne, [block]);
    const split = decodeBlock(inPieces, piecesOf(block));
    deepStrictEqual(split.text, whole.text);
    kind = kindOf(whole.fault || `${whole.list?.excess} ${whole.list?.fault}`, whole.list?.count ?? 0);
    if (!whole.list) break;
    const { list } = whole;
    ok(list.fields.join("").length <= limits.maxHeaderListBytes, "a list holds no more bytes than its limit");
    ok(list.fields.length <= limits.maxHeaderFields * 2, "a list holds no more fields than its limit");
    if (list.fault !== undefined || list.excess !== undefined) continue;
    if (block.length % 3 === 0) encoder.setPeerLimit(block[0] === undefined ? 0 : block[0] * 32);
    const out = new ByteBuffer();
    encoder.encode(fieldsOf(list), out);
    const again = decodeBlock(back, [Buffer.from(out.bytes.subarray(out.start, out.end))]);
    out.release();
    deepStrictEqual(again.text, whole.text);
  }
  return kind;
}

function decodeBlock(decoder: HpackDecoder, pieces: readonly Buffer[]) {
  let list: HeaderList | undefined;
  const fault = faultOf(() => {
    for (const piece of pieces) lend(piece, (bytes, start, end) => decoder.decode(bytes, start, end));
    list = decoder.finish();
  });
  return { fault, list, text: list ? textOf(list) : fault };
}

function fieldsOf(list: HeaderList): [string, string][] {
  const fields: [string, string][] = [];
  const { method, scheme, authority, path, status } = list;
  for (const [name, value] of Object.entries({ method, scheme, authority, path, status })) {
    if (value !== undefined) fields.push([`:${name}`, value]);
  }
  for (let at = 0; at < list.fields.length; at += 2) fields.push([list.fields[at] ?? "", list.fields[at + 1] ?? ""]);
  return fields;
}

const encodings = [undefined, "identity", "gzip", "br", "zstd"];
const maxMessageBytes = 1_000;

/** The first byte chooses the encoding. */
function readMessages(input: Buffer): string {
  const encoding = encodings[(input[0] ?? 0) % encodings.length];
  let kind = "";
  sameHoweverSplit(input.subarray(1), (pieces) => {
    const messages: string[] = [];
    const reader = new GrpcMessageReader({
      maxBytes: maxMessageBytes,
      encoding,
      onMessage(bytes, start, end) {
        ok(end - start <= maxMessageBytes, "no message is over the limit");
        messages.push(bytes.toString("hex", start, end));
      },
    });
    const fault = faultOf(
      () => {
        for (const piece of pieces) lend(piece, (bytes, start, end) => reader.push(bytes, start, end));
        reader.finish();
      },
      (error) => error instanceof MeshError || error instanceof ConnectError,
    );
    kind = kindOf(fault, messages.length);
    return [...messages, fault].join("\n");
  });
  return kind;
}

function message(payload: Buffer, flags: number): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt32BE(payload.length, 1);
  header[0] = flags;
  return Buffer.concat([header, payload]);
}

const request = headerBytes([...getRoot, ["content-length", "12"], ["te", "trailers"], ["x-long", "a".repeat(120)]]);
const response = headerBytes([
  [":status", "200"],
  ["grpc-status", "0"],
  ["set-cookie", "secret"],
]);
const hello = Buffer.from("hello");

export const decoderTargets: readonly FuzzTarget[] = [
  {
    name: "frames",
    framesFrom: 0,
    seeds: [
      Buffer.concat([
        rawFrame(FrameType.SETTINGS, 0, 0, Buffer.alloc(6)),
        rawFrame(FrameType.PING, 0, 0, Buffer.alloc(8)),
      ]),
      Buffer.concat([
        rawFrame(FrameType.DATA, Flag.PADDED, 1, Buffer.from([2, 7, 7, 0, 0])),
        rawFrame(FrameType.DATA, Flag.END_STREAM, 1, hello),
      ]),
    ],
    run: (input) => readFrames(input, false),
  },
  {
    name: "header-assembler",
    framesFrom: 0,
    seeds: [
      rawFrame(FrameType.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, 1, request),
      Buffer.concat([
        rawFrame(
          FrameType.HEADERS,
          Flag.PADDED | Flag.PRIORITY,
          3,
          Buffer.concat([Buffer.of(1, 0, 0, 0, 1, 9), request.subarray(0, 9), Buffer.of(0)]),
        ),
        rawFrame(FrameType.CONTINUATION, 0, 3, request.subarray(9, 20)),
        rawFrame(FrameType.CONTINUATION, Flag.END_HEADERS, 3, request.subarray(20)),
      ]),
    ],
    run: (input) => readFrames(input, true),
  },
  {
    name: "hpack",
    framesFrom: 0,
    // RFC 7541, C.4 and C.5: Huffman strings, and a table that evicts.
    seeds: [
      blocks(request, response, request),
      blocks(
        Buffer.from("828684418cf1e3c2e5f23a6ba0ab90f4ff", "hex"),
        Buffer.from("828684be5886a8eb10649cbf", "hex"),
        Buffer.from("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", "hex"),
      ),
      blocks(Buffer.from("3fe11f20", "hex"), Buffer.from("1f0a0378797a", "hex")),
    ],
    run: decodeBlocks,
  },
  {
    name: "grpc-messages",
    seeds: [
      Buffer.concat([Buffer.of(0), message(hello, 0), message(Buffer.alloc(0), 0), message(Buffer.alloc(300), 0)]),
      Buffer.concat([Buffer.of(2), message(gzipSync(hello), 1), message(hello, 0)]),
      Buffer.concat([Buffer.of(3), message(brotliCompressSync(Buffer.alloc(2_000)), 1)]),
    ],
    run: readMessages,
  },
];
