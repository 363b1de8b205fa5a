import { BlockStart } from "#kernel/wire/block-start.ts";
import { HeaderField } from "#kernel/wire/header-field.ts";
import { HeaderList } from "#kernel/wire/header-list.ts";
import { DynamicTable, staticTable, tableBytes } from "#kernel/wire/header-table.ts";
import { huffmanDecode } from "#kernel/wire/huffman.ts";
import type { WireLimits } from "#kernel/wire/limits.ts";
import { ErrorCode, WireError } from "#kernel/wire/wire-error.ts";

const nothing = Buffer.alloc(0);

/** A list may pass its limits by so much (and is refused); beyond, decoding it is a favour that nobody needs. */
const tolerance = 4;

const incomplete = -1;

/**
 * RFC 7541, one direction of one connection. A block may come in any pieces: whole fields are decoded at once and at
 * most one incomplete field is kept. A list over its limits is still decoded, because the table must stay in step.
 */
export class HpackDecoder {
  readonly #limits: WireLimits;
  readonly #table = new DynamicTable();
  readonly #start = new BlockStart();
  #list: HeaderList;
  #kept = nothing;
  /** Nothing of the block has come. */
  #begins = true;
  /** What has come of the block is in `#start`. */
  #isKnown = false;
  /** The last field of the block. */
  #field: HeaderField | undefined;
  #at = 0;
  /** Set by `#string`. */
  #text = "";

  constructor(limits: WireLimits) {
    this.#limits = limits;
    this.#list = new HeaderList(limits);
  }

  /** Throws COMPRESSION_ERROR, or ENHANCE_YOUR_CALM for a block far beyond the limits. */
  decode(bytes: Buffer, start: number, end: number): void {
    if (this.#kept.length > 0) {
      const joined = Buffer.concat([this.#kept, bytes.subarray(start, end)]);
      this.#kept = nothing;
      this.#decode(joined, 0, joined.length);
    } else {
      this.#decode(bytes, start, end);
    }
  }

  /** Ends the block and gives its list. Throws COMPRESSION_ERROR when the block ends inside a field. */
  finish(): HeaderList {
    if (this.#kept.length > 0) throw fault("a header block ends inside a field");
    const list = this.#list;
    this.#list = new HeaderList(this.#limits);
    this.#field = undefined;
    this.#begins = true;
    return list;
  }

  #decode(bytes: Buffer, start: number, end: number): void {
    this.#at = start;
    this.#isKnown = this.#begins;
    if (this.#begins) this.#repeat(bytes, end);
    while (this.#at < end) {
      const from = this.#at;
      if (!this.#read(bytes, end)) {
        this.#kept = Buffer.from(bytes.subarray(from, end));
        return;
      }
      if (this.#isKnown && this.#field) this.#isKnown = this.#start.add(this.#field, bytes, from, this.#at);
    }
  }

  /** The fields that the last block began with too. */
  #repeat(bytes: Buffer, end: number): void {
    this.#begins = false;
    this.#at += this.#start.meet(bytes, this.#at, end);
    const { fields, count } = this.#start;
    for (let index = 0; index < count; index++) this.#add(fields[index] as HeaderField);
  }

  /** False when the field is incomplete. */
  #read(bytes: Buffer, end: number): boolean {
    const first = bytes[this.#at] as number;
    // RFC 7541, 6.1: indexed.
    if (first >= 0x80) {
      const index = this.#integer(bytes, end, 7);
      if (index === incomplete) return false;
      this.#add(this.#entry(index));
      return true;
    }
    // RFC 7541, 6.3: size update.
    if (first >= 0x20 && first < 0x40) {
      const capacity = this.#integer(bytes, end, 5);
      if (capacity === incomplete) return false;
      // RFC 7541, 4.2: only at the start of a block, and never above what our SETTINGS allow.
      if (this.#field) throw fault("a table size update behind a field");
      if (capacity > tableBytes) throw fault(`a table of ${capacity} bytes, where ${tableBytes} are allowed`);
      this.#table.resize(capacity);
      this.#forgetStart();
      return true;
    }
    // RFC 7541, 6.2: literal, with incremental indexing (01), without (0000) or never indexed (0001).
    const indexed = first >= 0x40;
    const index = this.#integer(bytes, end, indexed ? 6 : 4);
    if (index === incomplete) return false;
    let name: string;
    if (index > 0) {
      name = this.#entry(index).name;
    } else {
      if (!this.#string(bytes, end)) return false;
      name = this.#text;
    }
    if (!this.#string(bytes, end)) return false;
    const field = new HeaderField(name, this.#text);
    if (indexed) {
      this.#table.add(field);
      this.#forgetStart();
    }
    this.#add(field);
    return true;
  }

  /** The table changed, and with it what indexes mean. */
  #forgetStart(): void {
    this.#start.forget();
    this.#isKnown = false;
  }

  #add(field: HeaderField): void {
    this.#field = field;
    this.#list.add(field);
    const { bytes, count } = this.#list;
    if (bytes > this.#limits.maxHeaderListBytes * tolerance || count > this.#limits.maxHeaderFields * tolerance) {
      throw new WireError(
        ErrorCode.ENHANCE_YOUR_CALM,
        `a header list far above ${this.#limits.maxHeaderListBytes} bytes`,
      );
    }
  }

  #entry(index: number): HeaderField {
    const entry =
      index <= staticTable.length ? staticTable[index - 1] : this.#table.get(index - staticTable.length - 1);
    if (entry === undefined) throw fault(`no header table entry ${index}`);
    return entry;
  }

  /** RFC 7541, 5.1. Moves on behind the integer, or returns `incomplete`. */
  #integer(bytes: Buffer, end: number, prefixBits: number): number {
    let at = this.#at;
    const most = (1 << prefixBits) - 1;
    let value = (bytes[at++] as number) & most;
    if (value === most) {
      for (let shift = 0; ; shift += 7) {
        // Nothing here comes near 2^28, and an endless integer must end.
        if (shift > 21) throw fault("an integer of more than 5 bytes");
        if (at === end) return incomplete;
        const byte = bytes[at++] as number;
        value += (byte & 0x7f) << shift;
        if (byte < 0x80) break;
      }
    }
    this.#at = at;
    return value;
  }

  /** RFC 7541, 5.2. Leaves the string in `#text`; false when it is incomplete. */
  #string(bytes: Buffer, end: number): boolean {
    if (this.#at >= end) return false;
    const huffman = (bytes[this.#at] as number) >= 0x80;
    const length = this.#integer(bytes, end, 7);
    if (length === incomplete) return false;
    // Judged before a byte of it is kept.
    if (length > this.#limits.maxHeaderListBytes) {
      throw new WireError(ErrorCode.ENHANCE_YOUR_CALM, `a header string of ${length} bytes`);
    }
    const start = this.#at;
    if (end - start < length) return false;
    this.#at = start + length;
    this.#text = huffman ? huffmanDecode(bytes, start, this.#at) : bytes.toString("latin1", start, this.#at);
    return true;
  }
}

function fault(message: string): WireError {
  return new WireError(ErrorCode.COMPRESSION_ERROR, message);
}
