const longestVarintBytes = 10;
/** Units of UTF-16, at most 127: the length is then one byte. */
const shortText = 64;
/** Kept between messages; larger memory goes back after one. */
const keptBytes = 1_048_576;

/** Protobuf's wire types (https://protobuf.dev/programming-guides/encoding/#structure). */
export const WireType = { VARINT: 0, I64: 1, LEN: 2, I32: 5 } as const;

/** Bytes of a varint; `value` is a whole number of 0 to 2^53 - 1. */
function varintBytes(value: number): number {
  let count = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) count++;
  return count;
}

/** Bytes of a LEN field whose number is under 16, tag and length included. */
export function lengthDelimitedBytes(length: number): number {
  return 1 + varintBytes(length) + length;
}

/** Bytes of a string field whose number is under 16; none when it is empty, as proto3 has it. */
export function stringBytes(text: string): number {
  return text === "" ? 0 : lengthDelimitedBytes(textBytes(text));
}

/** Bytes of a text in UTF-8. */
export function textBytes(text: string): number {
  return isShortAscii(text) ? text.length : Buffer.byteLength(text);
}

function isShortAscii(text: string): boolean {
  if (text.length > shortText) return false;
  for (let index = 0; index < text.length; index++) if (text.charCodeAt(index) > 0x7f) return false;
  return true;
}

/** Bytes of an integer field whose number is under 16; none when it is 0. */
export function uintBytes(value: number): number {
  return value === 0 ? 0 : 1 + varintBytes(value);
}

/**
 * Writes protobuf by hand into memory that is used again for the next message: for the few messages that are written
 * for every token or call, where protobuf-es costs more than all the rest. Field numbers are under 16.
 */
export class ProtoWriter {
  /** Valid up to `length`; replaced when it grows. */
  bytes: Buffer;
  length = 0;

  /** `room`: for a message whose size is known; the memory is then from Node's pool, and the message's own. */
  constructor(room?: number) {
    this.bytes = room === undefined ? Buffer.allocUnsafeSlow(16_384) : Buffer.allocUnsafe(room);
  }

  /** Forgets what was written. */
  clear(): void {
    this.length = 0;
    if (this.bytes.length > keptBytes) this.bytes = Buffer.allocUnsafeSlow(16_384);
  }

  /** An integer field, left out when it is 0. `value` is a whole number of 0 to 2^53 - 1. */
  uint(field: number, value: number): void {
    if (value === 0) return;
    this.#reserve(1 + longestVarintBytes);
    this.bytes[this.length++] = (field << 3) | WireType.VARINT;
    this.#varint(value);
  }

  /** A string field, left out when it is empty. `length`: its bytes, where they are known; a long text is slow to measure. */
  string(field: number, text: string, length?: number): void {
    if (text === "" || (text.length <= shortText && this.#shortAscii(field, text))) return;
    const bytes = length ?? Buffer.byteLength(text);
    this.lengthDelimited(field, bytes);
    this.#reserve(bytes);
    this.length += this.bytes.write(text, this.length);
  }

  /** A bytes field or an encoded message, also when it is empty. */
  raw(field: number, bytes: Uint8Array): void {
    this.lengthDelimited(field, bytes.length);
    this.encoded(bytes);
  }

  /** Whole fields that are encoded already. */
  encoded(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.bytes.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** A packed `repeated fixed32`, left out when there are none. */
  fixed32s(field: number, values: ArrayLike<number>): void {
    if (values.length === 0) return;
    this.lengthDelimited(field, values.length * 4);
    this.#reserve(values.length * 4);
    for (let at = 0; at < values.length; at++) {
      this.length = this.bytes.writeUInt32LE((values[at] as number) >>> 0, this.length);
    }
  }

  /** Tag and length of a LEN field; the caller writes `length` bytes of content next. */
  lengthDelimited(field: number, length: number): void {
    this.#reserve(1 + longestVarintBytes);
    this.bytes[this.length++] = (field << 3) | WireType.LEN;
    this.#varint(length);
  }

  /** Most strings are names; a call into the runtime costs more than their bytes. False, with nothing written, for others. */
  #shortAscii(field: number, text: string): boolean {
    this.#reserve(2 + text.length);
    const { bytes } = this;
    let at = this.length + 2;
    for (let index = 0; index < text.length; index++) {
      const unit = text.charCodeAt(index);
      if (unit > 0x7f) return false;
      bytes[at++] = unit;
    }
    bytes[this.length] = (field << 3) | WireType.LEN;
    bytes[this.length + 1] = text.length;
    this.length = at;
    return true;
  }

  #varint(value: number): void {
    let rest = value;
    for (; rest >= 0x8000_0000; rest = Math.floor(rest / 0x80)) this.bytes[this.length++] = (rest % 0x80) | 0x80;
    for (; rest >= 0x80; rest >>>= 7) this.bytes[this.length++] = (rest & 0x7f) | 0x80;
    this.bytes[this.length++] = rest;
  }

  #reserve(count: number): void {
    if (this.bytes.length - this.length >= count) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(this.length + count, this.bytes.length * 2));
    this.bytes.copy(grown, 0, 0, this.length);
    this.bytes = grown;
  }
}
