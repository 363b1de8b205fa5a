import { HeaderField } from "#kernel/wire/header-field.ts";

/** RFC 7541, appendix A. Index 1 comes first. */
export const staticTable: readonly HeaderField[] = [
  new HeaderField(":authority", ""),
  new HeaderField(":method", "GET"),
  new HeaderField(":method", "POST"),
  new HeaderField(":path", "/"),
  new HeaderField(":path", "/index.html"),
  new HeaderField(":scheme", "http"),
  new HeaderField(":scheme", "https"),
  new HeaderField(":status", "200"),
  new HeaderField(":status", "204"),
  new HeaderField(":status", "206"),
  new HeaderField(":status", "304"),
  new HeaderField(":status", "400"),
  new HeaderField(":status", "404"),
  new HeaderField(":status", "500"),
  new HeaderField("accept-charset", ""),
  new HeaderField("accept-encoding", "gzip, deflate"),
  new HeaderField("accept-language", ""),
  new HeaderField("accept-ranges", ""),
  new HeaderField("accept", ""),
  new HeaderField("access-control-allow-origin", ""),
  new HeaderField("age", ""),
  new HeaderField("allow", ""),
  new HeaderField("authorization", ""),
  new HeaderField("cache-control", ""),
  new HeaderField("content-disposition", ""),
  new HeaderField("content-encoding", ""),
  new HeaderField("content-language", ""),
  new HeaderField("content-length", ""),
  new HeaderField("content-location", ""),
  new HeaderField("content-range", ""),
  new HeaderField("content-type", ""),
  new HeaderField("cookie", ""),
  new HeaderField("date", ""),
  new HeaderField("etag", ""),
  new HeaderField("expect", ""),
  new HeaderField("expires", ""),
  new HeaderField("from", ""),
  new HeaderField("host", ""),
  new HeaderField("if-match", ""),
  new HeaderField("if-modified-since", ""),
  new HeaderField("if-none-match", ""),
  new HeaderField("if-range", ""),
  new HeaderField("if-unmodified-since", ""),
  new HeaderField("last-modified", ""),
  new HeaderField("link", ""),
  new HeaderField("location", ""),
  new HeaderField("max-forwards", ""),
  new HeaderField("proxy-authenticate", ""),
  new HeaderField("proxy-authorization", ""),
  new HeaderField("range", ""),
  new HeaderField("referer", ""),
  new HeaderField("refresh", ""),
  new HeaderField("retry-after", ""),
  new HeaderField("server", ""),
  new HeaderField("set-cookie", ""),
  new HeaderField("strict-transport-security", ""),
  new HeaderField("transfer-encoding", ""),
  new HeaderField("user-agent", ""),
  new HeaderField("vary", ""),
  new HeaderField("via", ""),
  new HeaderField("www-authenticate", ""),
];

/** RFC 7541, 4.2, and the setting that we leave at its default: bytes that either side's table may take. */
export const tableBytes = 4_096;

/** Every entry counts 32 bytes and more, so these are all that fit. */
const slots = tableBytes / 32;

/** RFC 7541, 2.3.2: the newest entry has index 0. */
export class DynamicTable {
  /** A ring of at most `slots`, filled as needed: most tables stay small. */
  readonly #entries: (HeaderField | undefined)[] = [];
  #added = 0;
  #length = 0;
  #size = 0;
  #capacity = tableBytes;
  readonly #onEvict: ((field: HeaderField, serial: number) => void) | undefined;

  constructor(onEvict?: (field: HeaderField, serial: number) => void) {
    this.#onEvict = onEvict;
  }

  /** Counts every entry ever added: the entry with serial s has index `added - 1 - s`. */
  get added(): number {
    return this.#added;
  }

  get capacity(): number {
    return this.#capacity;
  }

  get(index: number): HeaderField | undefined {
    return index < this.#length ? this.#entries[(this.#added - 1 - index) % slots] : undefined;
  }

  /** RFC 7541, 4.4: an entry that does not fit empties the table and is not added. Says whether it was. */
  add(field: HeaderField): boolean {
    this.#evictTo(this.#capacity - field.size);
    if (field.size > this.#capacity) return false;
    this.#entries[this.#added % slots] = field;
    this.#added += 1;
    this.#length += 1;
    this.#size += field.size;
    return true;
  }

  resize(capacity: number): void {
    this.#capacity = capacity;
    this.#evictTo(capacity);
  }

  #evictTo(size: number): void {
    while (this.#size > size && this.#length > 0) {
      const serial = this.#added - this.#length;
      const oldest = this.#entries[serial % slots];
      if (oldest === undefined) return;
      this.#entries[serial % slots] = undefined;
      this.#length -= 1;
      this.#size -= oldest.size;
      this.#onEvict?.(oldest, serial);
    }
  }
}
