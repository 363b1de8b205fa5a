import { type ChatInput, type GenerateRequest, ToolChoice_Mode } from "#gen/helixmesh/inference/v1/inference_pb.ts";

/** Bytes of canonical prompt that one block covers unless a setting says otherwise. */
export const defaultBlockBytes = 256;

/**
 * The prompt of a request as chained 32-bit hashes, one a whole block of `blockBytes` bytes, at most `maxBlocks` of
 * them: hash i stands for the first (i + 1) × blockBytes bytes of the canonical prompt, so two requests whose first n
 * hashes are equal have equal beginnings. Routers and agents both compute it and must agree to the bit; what is hashed
 * is a contract (link.proto, PrefixDigest), held by golden values in the tests.
 *
 * The canonical prompt is UTF-8, knows no chat template and no tokenizer, and only ever grows at its end as a
 * conversation goes on: the model's name as asked for, the tools that may be called, then the messages. Each part
 * begins with a byte below 0x08 that says what it is. Ids of tool calls are left out: most templates do not write them.
 * Token ids are four bytes each, least significant first.
 */
export function promptBlocks(request: GenerateRequest, blockBytes: number, maxBlocks: number): Uint32Array {
  const blocks = new BlockHasher(blockBytes, maxBlocks);
  blocks.text("\u0001");
  blocks.text(request.model);
  const { input } = request;
  switch (input.case) {
    case "chat":
      addChat(blocks, input.value);
      break;
    case "prompt":
      blocks.text("\u0006");
      blocks.text(input.value);
      break;
    case "tokens":
      blocks.text("\u0007");
      blocks.words(input.value.ids);
      break;
    case undefined:
      break;
  }
  return blocks.hashes();
}

function addChat(blocks: BlockHasher, { tools, toolChoice, messages }: ChatInput): void {
  if (toolChoice?.mode !== ToolChoice_Mode.NONE) {
    for (const { name, description, parametersJson } of tools) {
      blocks.text("\u0002");
      blocks.text(name);
      blocks.text("\u0003");
      blocks.text(description);
      blocks.text("\u0003");
      blocks.text(parametersJson);
    }
  }
  for (const { role, name, content, toolCalls } of messages) {
    if (blocks.full) return;
    blocks.text("\u0004");
    blocks.text(String(role));
    blocks.text(name);
    blocks.text("\u0003");
    blocks.text(content);
    for (const call of toolCalls) {
      blocks.text("\u0005");
      blocks.text(call.name);
      blocks.text("\u0003");
      blocks.text(call.argumentsJson);
    }
  }
}

const encoder = new TextEncoder();
/** Bytes not hashed yet; only used within one call of `promptBlocks`. Grown for blocks longer than a quarter of it. */
let scratch = new Uint8Array(16_384);
let view = new DataView(scratch.buffer);
/** The hashes so far; lent like the scratch, since a fresh array of `maxBlocks` costs more than a short prompt's hash. */
let lent = new Uint32Array(0);
const none = new Uint32Array(0);
/** Texts up to this many UTF-16 units are written here while they are ASCII: TextEncoder costs more than that. */
const shortText = 48;

/** Cuts what it is given into blocks and hashes each with MurmurHash3 (x86, 32 bits), seeded with the hash before it. */
class BlockHasher {
  readonly #blockBytes: number;
  readonly #maxBlocks: number;
  #count = 0;
  #length = 0;

  constructor(blockBytes: number, maxBlocks: number) {
    if (!Number.isSafeInteger(blockBytes) || blockBytes < 1) throw new RangeError("blockBytes is at least 1");
    if (scratch.length < 4 * blockBytes) {
      scratch = new Uint8Array(4 * blockBytes);
      view = new DataView(scratch.buffer);
    }
    this.#blockBytes = blockBytes;
    this.#maxBlocks = maxBlocks;
    if (lent.length < maxBlocks) lent = new Uint32Array(maxBlocks);
  }

  /** All blocks that were wanted are there; more input changes nothing. */
  get full(): boolean {
    return this.#count === this.#maxBlocks;
  }

  text(text: string): void {
    let rest = text.length > shortText ? text : text.slice(this.#ascii(text));
    while (rest !== "" && !this.full) {
      const { read, written } = encoder.encodeInto(rest, scratch.subarray(this.#length));
      this.#length += written;
      if (read < rest.length) this.#cut();
      rest = rest.slice(read);
    }
  }

  /** Writes the text up to its first unit that is not ASCII, as far as there is room; returns how much that is. */
  #ascii(text: string): number {
    const start = this.#length;
    const most = Math.min(text.length, scratch.length - start);
    let at = 0;
    for (; at < most; at++) {
      const unit = text.charCodeAt(at);
      if (unit > 0x7f) break;
      scratch[start + at] = unit;
    }
    this.#length = start + at;
    return at;
  }

  words(words: readonly number[]): void {
    for (const word of words) {
      if (this.full) return;
      if (this.#length + 4 > scratch.length) this.#cut();
      view.setUint32(this.#length, word, true);
      this.#length += 4;
    }
  }

  hashes(): Uint32Array {
    this.#cut();
    return this.#count === 0 ? none : lent.slice(0, this.#count);
  }

  /** Hashes the whole blocks of the scratch and moves the rest to its head. */
  #cut(): void {
    let at = 0;
    for (; at + this.#blockBytes <= this.#length && !this.full; at += this.#blockBytes) {
      const seed = this.#count === 0 ? 0 : (lent[this.#count - 1] ?? 0);
      lent[this.#count++] = hash(seed, at, at + this.#blockBytes);
    }
    if (at === 0) return;
    scratch.copyWithin(0, at, this.#length);
    this.#length -= at;
  }
}

/** MurmurHash3_x86_32 of the scratch's bytes from `start` to `end`. */
function hash(seed: number, start: number, end: number): number {
  let state = seed;
  let at = start;
  for (; at + 4 <= end; at += 4) {
    const turned = state ^ scrambled(view.getInt32(at, true));
    state = (Math.imul((turned << 13) | (turned >>> 19), 5) + 0xe6546b64) | 0;
  }
  let tail = 0;
  for (let shift = 0; at < end; at++, shift += 8) tail |= view.getUint8(at) << shift;
  state ^= scrambled(tail) ^ (end - start);
  state = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
  state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35);
  return (state ^ (state >>> 16)) >>> 0;
}

function scrambled(word: number): number {
  const product = Math.imul(word, 0xcc9e2d51);
  return Math.imul((product << 15) | (product >>> 17), 0x1b873593);
}
