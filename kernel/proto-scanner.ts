import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { WireType } from "#kernel/proto-writer.ts";

/**
 * Reads an encoded message field by field without decoding it, for messages of which most is passed on as it is:
 *
 *     scanner.reset(bytes, start, end);
 *     while (scanner.next()) if (scanner.field === 2) use(bytes, scanner.start, scanner.end);
 *
 * Each throws a MeshError (INVALID_REQUEST) for bytes that are no protobuf.
 */
export class ProtoScanner {
  field = 0;
  wireType = 0;
  /** Of a varint. Exact up to 2^53 - 1. */
  value = 0;
  /** Where the content of a LEN field lies. */
  start = 0;
  end = 0;
  #bytes: Uint8Array = new Uint8Array(0);
  #at = 0;
  #limit = 0;

  reset(bytes: Uint8Array, start: number, end: number): void {
    this.#bytes = bytes;
    this.#at = start;
    this.#limit = end;
  }

  /** Goes to the next field; false when there is none. */
  next(): boolean {
    if (this.#at >= this.#limit) return false;
    return this.#nextShort() || this.#nextAny();
  }

  /** For a LEN field whose tag and length are a byte each, as nearly all are. False: it is another, or malformed. */
  #nextShort(): boolean {
    const at = this.#at;
    const start = at + 2;
    if (start > this.#limit) return false;
    const tag = this.#bytes[at] as number;
    const length = this.#bytes[at + 1] as number;
    if (tag >= 0x80 || tag < 8 || (tag & 7) !== WireType.LEN || length >= 0x80 || start + length > this.#limit) {
      return false;
    }
    this.field = tag >>> 3;
    this.wireType = WireType.LEN;
    this.start = start;
    this.end = this.#at = start + length;
    return true;
  }

  #nextAny(): boolean {
    const tag = this.#varint();
    this.field = Math.floor(tag / 8);
    this.wireType = tag & 7;
    if (this.field === 0) throw malformed("a field has the number 0");
    switch (this.wireType) {
      case WireType.VARINT:
        this.value = this.#varint();
        return true;
      case WireType.LEN:
        return this.#span(this.#varint());
      case WireType.I32:
        return this.#span(4);
      case WireType.I64:
        return this.#span(8);
      default:
        throw malformed(`a field has the wire type ${this.wireType}`);
    }
  }

  /** True for a LEN field of this number. */
  is(field: number): boolean {
    return this.field === field && this.wireType === WireType.LEN;
  }

  #span(length: number): true {
    this.start = this.#at;
    this.end = this.#at + length;
    if (this.end > this.#limit) throw malformed("a field goes beyond the end of its message");
    this.#at = this.end;
    return true;
  }

  #varint(): number {
    const bytes = this.#bytes;
    const limit = this.#limit;
    let byte = this.#at < limit ? (bytes[this.#at++] as number) : tooShort();
    if (byte < 0x80) return byte;
    let value = byte & 0x7f;
    let scale = 0x80;
    for (let count = 1; count < 10; count++) {
      byte = this.#at < limit ? (bytes[this.#at++] as number) : tooShort();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
    throw malformed("an integer has more than 10 bytes");
  }
}

function tooShort(): never {
  throw malformed("it ends within an integer");
}

function malformed(what: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, `A message is no valid protobuf: ${what}.`);
}
