import { FinishReason } from "#gen/helixmesh/inference/v1/inference_pb.ts";

/**
 * Reads a GenerateResponse that is a delta of nothing but text, why it ended (and token ids, which these doors do not
 * show), as nearly all are, without decoding the message. Anything else is for the real decoder. One reader serves all calls: what it
 * read holds until the next `read`.
 */
export class PlainDelta {
  choiceIndex = 0;
  finishReason: FinishReason = FinishReason.UNSPECIFIED;
  /** The text as JSON, quotes included. */
  json = "";
  text = "";
  #bytes: Uint8Array = new Uint8Array();
  #at = 0;
  #end = 0;

  /** False: not such a message, and nothing was read. */
  read(bytes: Uint8Array, start: number, end: number): boolean {
    this.#bytes = bytes;
    this.#at = start + 1;
    this.#end = end;
    if (start >= end || bytes[start] !== deltaTag || this.#varint() !== end - this.#at) return false;
    let choiceIndex = 0;
    let finishReason: FinishReason = FinishReason.UNSPECIFIED;
    let textAt = -1;
    let textEnd = -1;
    while (this.#at < end) {
      const tag = bytes[this.#at++];
      const value = this.#varint();
      if (value < 0) return false;
      if (tag === choiceIndexTag) {
        choiceIndex = value;
        continue;
      }
      if (tag === finishReasonTag) {
        finishReason = value as FinishReason;
        continue;
      }
      const from = this.#at;
      this.#at += value;
      if (this.#at > end) return false;
      if (tag === textTag && textAt < 0) {
        textAt = from;
        textEnd = this.#at;
      } else if (tag !== tokenIdsTag) {
        return false;
      }
    }
    this.choiceIndex = choiceIndex;
    this.finishReason = finishReason;
    this.#readText(textAt, textEnd);
    return true;
  }

  #readText(start: number, end: number): void {
    const bytes = this.#bytes;
    let text = "";
    for (let at = start; at < end; at++) {
      const code = bytes[at] as number;
      if (code < 0x20 || code > 0x7e || code === quote || code === backslash) {
        this.text = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString();
        this.json = JSON.stringify(this.text);
        return;
      }
      text += String.fromCharCode(code);
    }
    this.text = text;
    this.json = `"${text}"`;
  }

  /** -1 when it is cut short or longer than any value here. */
  #varint(): number {
    let value = 0;
    for (let shift = 0; shift < 28; shift += 7) {
      if (this.#at >= this.#end) return -1;
      const byte = this.#bytes[this.#at++] as number;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return -1;
  }
}

// https://protobuf.dev/programming-guides/encoding/#structure: field number << 3 | wire type.
/** GenerateResponse.delta */
const deltaTag = (2 << 3) | 2;
/** Delta.choice_index */
const choiceIndexTag = 1 << 3;
/** Delta.text */
const textTag = (2 << 3) | 2;
/** Delta.finish_reason */
const finishReasonTag = 6 << 3;
/** Delta.token_ids */
const tokenIdsTag = (3 << 3) | 2;

const quote = 0x22;
const backslash = 0x5c;
