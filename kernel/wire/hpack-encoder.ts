import { ByteBuffer } from "#kernel/wire/byte-buffer.ts";
import { HeaderField, isName, isValue } from "#kernel/wire/header-field.ts";
import { DynamicTable, staticTable, tableBytes } from "#kernel/wire/header-table.ts";
import { huffmanEncode, huffmanLength } from "#kernel/wire/huffman.ts";

/** What is sent, pseudo-fields first, names in lower case, values of one character a byte. */
export type HeaderFields = readonly Field[];
type Field = readonly [name: string, value: string];

/** Fields encoded once, for any connection: they touch no dynamic table. Made by `encodeBlock`. */
export class HeaderBlock {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}

/** Throws a TypeError for a field that HTTP/2 forbids. */
export function encodeBlock(fields: HeaderFields): HeaderBlock {
  const out = new ByteBuffer();
  for (const [name, value] of fields) {
    check(name, value);
    const index = staticIndexes.get(name)?.get(value);
    if (index === undefined) appendLiteral(out, unindexed, name, staticNames.get(name) ?? 0, value);
    else appendInteger(out, 0x80, 7, index);
  }
  const bytes = Uint8Array.from(out.bytes.subarray(out.start, out.end));
  out.release();
  return new HeaderBlock(bytes);
}

/** RFC 7541, 6.2: first bits and bits left for the index. */
const indexedLiteral = { bits: 0x40, prefix: 6 } as const;
const unindexed = { bits: 0x00, prefix: 4 } as const;
const neverIndexed = { bits: 0x10, prefix: 4 } as const;
type LiteralKind = typeof indexedLiteral | typeof unindexed | typeof neverIndexed;

/** RFC 7541, 7.1.3: secrets must not be guessable through a table that a proxy shares between its users. */
const secretNames = new Set(["authorization", "proxy-authorization", "cookie", "set-cookie"]);

/** Seldom the same twice: indexing them would push out what is. */
const changingNames = new Set([
  "content-length",
  "date",
  "etag",
  "grpc-message",
  "grpc-status-details-bin",
  "grpc-timeout",
  "last-modified",
  "traceparent",
  "x-request-id",
]);

/** By name, then value. */
const staticIndexes = new Map<string, Map<string, number>>();
const staticNames = new Map<string, number>();
for (const [at, { name, value }] of staticTable.entries()) {
  if (!staticNames.has(name)) staticNames.set(name, at + 1);
  if (value !== "") serialsOf(staticIndexes, name).set(value, at + 1);
}

function serialsOf(map: Map<string, Map<string, number>>, name: string): Map<string, number> {
  let values = map.get(name);
  if (!values) map.set(name, (values = new Map()));
  return values;
}

/** What lists begin with that begin with the same objects, as a server's answers do: encoded once, while no index moves. */
interface ListStart {
  readonly fields: HeaderFields;
  readonly bytes: Uint8Array;
  /** Of the table, when these were its indexes. */
  readonly added: number;
}

const noStart: ListStart = { fields: [], bytes: new Uint8Array(0), added: 0 };

/** RFC 7541, one direction of one connection. */
export class HpackEncoder {
  readonly #serials = new Map<string, Map<string, number>>();
  readonly #table = new DynamicTable((field, serial) => {
    const values = this.#serials.get(field.name);
    if (values?.get(field.value) === serial) values.delete(field.value);
    if (values?.size === 0) this.#serials.delete(field.name);
  });
  /** RFC 7541, 4.2: sizes to announce at the start of the next block. */
  #sizeUpdates: number[] = [];
  #start = noStart;
  /** The first field of the last list. */
  #first: Field | undefined;

  /** The peer's SETTINGS_HEADER_TABLE_SIZE. */
  setPeerLimit(bytes: number): void {
    const capacity = Math.min(bytes, tableBytes);
    if (capacity === this.#table.capacity) return;
    this.#table.resize(capacity);
    this.#start = noStart;
    // The smallest since the last block must be told, then the one that holds.
    const smallest = Math.min(capacity, ...this.#sizeUpdates);
    this.#sizeUpdates = smallest === capacity ? [capacity] : [smallest, capacity];
  }

  /** Appends a header block. Throws a TypeError, with nothing appended, for a field that HTTP/2 forbids. */
  encode(fields: HeaderFields | HeaderBlock, out: ByteBuffer): void {
    if (fields instanceof HeaderBlock) {
      this.#updateSizes(out);
      return out.append(fields.bytes, 0, fields.bytes.length);
    }
    const start = this.#startOf(fields);
    for (let at = start.fields.length; at < fields.length; at++) check(...(fields[at] as Field));
    this.#updateSizes(out);
    out.append(start.bytes, 0, start.bytes.length);
    for (let at = start.fields.length; at < fields.length; at++) this.#field(out, ...(fields[at] as Field));
    if (start === noStart) this.#remember(fields, out);
  }

  #updateSizes(out: ByteBuffer): void {
    for (const size of this.#sizeUpdates) appendInteger(out, 0x20, 5, size);
    if (this.#sizeUpdates.length > 0) this.#sizeUpdates = [];
  }

  #startOf(fields: HeaderFields): ListStart {
    const start = this.#start;
    if (start.added !== this.#table.added) return noStart;
    for (let at = 0; at < start.fields.length; at++) if (fields[at] !== start.fields[at]) return noStart;
    return start;
  }

  /** How this list begins, where the last one began with the same object. `out` is left as it is. */
  #remember(fields: HeaderFields, out: ByteBuffer): void {
    const isRepeated = fields[0] === this.#first;
    this.#first = fields[0];
    if (!isRepeated) return;
    const from = out.end - out.start;
    let count = 0;
    for (const [name, value] of fields) {
      const index = this.#indexOf(name, value);
      if (index === 0) break;
      appendInteger(out, 0x80, 7, index);
      count += 1;
    }
    const bytes = Uint8Array.from(out.bytes.subarray(out.start + from, out.end));
    out.end = out.start + from;
    if (count > 0) this.#start = { fields: fields.slice(0, count), bytes, added: this.#table.added };
  }

  /** 0 where neither table has it. */
  #indexOf(name: string, value: string): number {
    const index = staticIndexes.get(name)?.get(value);
    if (index !== undefined) return index;
    const serial = this.#serials.get(name)?.get(value);
    return serial === undefined ? 0 : this.#index(serial);
  }

  #field(out: ByteBuffer, name: string, value: string): void {
    const index = this.#indexOf(name, value);
    if (index > 0) return appendInteger(out, 0x80, 7, index);
    const kind = this.#kind(name, value);
    appendLiteral(out, kind, name, staticNames.get(name) ?? this.#nameIndex(name), value);
    if (kind !== indexedLiteral) return;
    const next = this.#table.added;
    if (this.#table.add(new HeaderField(name, value))) serialsOf(this.#serials, name).set(value, next);
  }

  #kind(name: string, value: string): LiteralKind {
    if (secretNames.has(name)) return neverIndexed;
    const large = (name.length + value.length + 32) * 4 > this.#table.capacity;
    return large || changingNames.has(name) ? unindexed : indexedLiteral;
  }

  #nameIndex(name: string): number {
    for (const serial of this.#serials.get(name)?.values() ?? []) return this.#index(serial);
    return 0;
  }

  #index(serial: number): number {
    return staticTable.length + this.#table.added - serial;
  }
}

/** Names come from the code, so there are few; whoever makes them up pays for each. */
const mostNames = 1_000;
const goodNames = new Set<string>();

function check(name: string, value: string): void {
  if (!goodNames.has(name)) {
    if (!isName(name.startsWith(":") ? name.slice(1) : name)) {
      throw new TypeError(`header name ${JSON.stringify(name)} must be lower case and free of blanks and colons`);
    }
    if (goodNames.size < mostNames) goodNames.add(name);
  }
  if (!isValue(value))
    throw new TypeError(`the value of header ${name} has a line break, or a blank at an end, or is no latin1`);
}

/** `index` is that of the name, 0 to spell it out. */
function appendLiteral(out: ByteBuffer, kind: LiteralKind, name: string, index: number, value: string): void {
  appendInteger(out, kind.bits, kind.prefix, index);
  if (index === 0) appendString(out, name);
  appendString(out, value);
}

/** Fewer bytes than this are not worth the shifting that Huffman takes to save them, as for the id of every call. */
const leastSaved = 16;
/** Its shortest code has 5 bits, so that it saves no more than 3 of 8 bytes. */
const shortestWorth = Math.ceil((leastSaved * 8) / 3);

function appendString(out: ByteBuffer, text: string): void {
  const length = text.length < shortestWorth ? text.length : huffmanLength(text);
  if (length + leastSaved <= text.length) {
    appendInteger(out, 0x80, 7, length);
    huffmanEncode(text, out);
    return;
  }
  appendInteger(out, 0, 7, text.length);
  out.reserve(text.length);
  const { bytes } = out;
  for (let at = 0; at < text.length; at++) bytes[out.end++] = text.charCodeAt(at);
}

/** RFC 7541, 5.1. */
function appendInteger(out: ByteBuffer, bits: number, prefixBits: number, value: number): void {
  out.reserve(6);
  const most = (1 << prefixBits) - 1;
  if (value < most) {
    out.bytes[out.end++] = bits | value;
    return;
  }
  out.bytes[out.end++] = bits | most;
  let rest = value - most;
  for (; rest >= 0x80; rest >>>= 7) out.bytes[out.end++] = (rest & 0x7f) | 0x80;
  out.bytes[out.end++] = rest;
}
