/** Room for the tag and length of `ConnectResponse.step`, which are known only when all of it is written. */
const headBytes = 6;

/** Protobuf tags of link.proto: field number × 8 + wire type. */
const tag = { step: 0x12, deltas: 0x0a, number: 0x08, responses: 0x12, end: 0x1a, completionTokens: 0x20 } as const;

/** Encodes a `ConnectResponse` with a step, delta by delta, from responses that are encoded already. */
export class StepWriter {
  #bytes = Buffer.alloc(65_536);
  #at = headBytes;
  readonly #delta = Buffer.alloc(8_192);
  #deltaAt = 0;

  begin(number: number): void {
    this.#delta[0] = tag.number;
    this.#deltaAt = varint(this.#delta, 1, number);
  }

  response(bytes: Uint8Array): void {
    this.#field(tag.responses, bytes);
  }

  end(callEnd: Uint8Array): void {
    this.#field(tag.end, callEnd);
  }

  finish(completionTokens: number): void {
    if (completionTokens > 0) {
      this.#delta[this.#deltaAt] = tag.completionTokens;
      this.#deltaAt = varint(this.#delta, this.#deltaAt + 1, completionTokens);
    }
    this.#reserve(this.#deltaAt + headBytes);
    this.#bytes[this.#at] = tag.deltas;
    this.#at = varint(this.#bytes, this.#at + 1, this.#deltaAt);
    this.#at += this.#delta.copy(this.#bytes, this.#at, 0, this.#deltaAt);
  }

  /** The whole message, valid until the next `begin`; `rest` are further encoded fields of `StepBatch`. */
  take(rest: Uint8Array): { readonly bytes: Buffer; readonly start: number; readonly end: number } {
    this.#reserve(rest.length);
    this.#bytes.set(rest, this.#at);
    const end = this.#at + rest.length;
    this.#at = headBytes;
    const length = end - headBytes;
    const start = headBytes - 1 - varintLength(length);
    this.#bytes[start] = tag.step;
    varint(this.#bytes, start + 1, length);
    return { bytes: this.#bytes, start, end };
  }

  #field(tag: number, bytes: Uint8Array): void {
    this.#delta[this.#deltaAt] = tag;
    this.#deltaAt = varint(this.#delta, this.#deltaAt + 1, bytes.length);
    this.#delta.set(bytes, this.#deltaAt);
    this.#deltaAt += bytes.length;
  }

  #reserve(bytes: number): void {
    if (this.#at + bytes <= this.#bytes.length) return;
    const grown = Buffer.alloc((this.#at + bytes) * 2);
    this.#bytes.copy(grown, 0, 0, this.#at);
    this.#bytes = grown;
  }
}

function varint(bytes: Uint8Array, at: number, value: number): number {
  let rest = value;
  let next = at;
  for (; rest > 0x7f; rest >>>= 7) bytes[next++] = (rest & 0x7f) | 0x80;
  bytes[next] = rest;
  return next + 1;
}

function varintLength(value: number): number {
  let length = 1;
  for (let rest = value; rest > 0x7f; rest >>>= 7) length++;
  return length;
}
