import type { HeaderField } from "#kernel/wire/header-field.ts";
import type { WireLimits } from "#kernel/wire/limits.ts";

/** One received header section, checked while it is filled (RFC 9113, 8.2 and 8.3). */
export class HeaderList {
  /** Pseudo-fields; undefined when absent. */
  method: string | undefined;
  scheme: string | undefined;
  authority: string | undefined;
  path: string | undefined;
  status: string | undefined;
  contentLength: number | undefined;
  /** Regular fields in order: name, value, name, value. */
  readonly fields: string[] = [];
  /** Why the message is malformed; nothing may be made of its fields then. */
  fault: string | undefined;
  /** Set when a limit was passed; the fields are incomplete then. */
  excess: "maxHeaderListBytes" | "maxHeaderFields" | undefined;
  #bytes = 0;
  #count = 0;
  readonly #limits: WireLimits;

  constructor(limits: WireLimits) {
    this.#limits = limits;
  }

  /** Counted as in RFC 9113, 6.5.2, whether the field was kept or not. */
  get bytes(): number {
    return this.#bytes;
  }

  get count(): number {
    return this.#count;
  }

  /** The first value of a regular field, one character a byte; `name` in lower case. */
  get(name: string): string | undefined {
    const { fields } = this;
    for (let at = 0; at < fields.length; at += 2) if (fields[at] === name) return fields[at + 1];
    return undefined;
  }

  add(field: HeaderField): void {
    this.#bytes += field.size;
    this.#count += 1;
    if (this.#bytes > this.#limits.maxHeaderListBytes) this.excess = "maxHeaderListBytes";
    else if (this.#count > this.#limits.maxHeaderFields) this.excess = "maxHeaderFields";
    if (this.excess !== undefined) return;
    switch (field.role) {
      case "regular":
        this.fields.push(field.name, field.value);
        return;
      case "content-length":
        this.#contentLength(field);
        return;
      case ":method":
        this.#pseudo(this.method === undefined);
        this.method = field.value;
        return;
      case ":scheme":
        this.#pseudo(this.scheme === undefined);
        this.scheme = field.value;
        return;
      case ":authority":
        this.#pseudo(this.authority === undefined);
        this.authority = field.value;
        return;
      case ":path":
        this.#pseudo(this.path === undefined);
        this.path = field.value;
        return;
      case ":status":
        this.#pseudo(this.status === undefined);
        this.status = field.value;
        return;
      case "malformed":
        this.fault ??= "a field that HTTP/2 forbids";
    }
  }

  #pseudo(first: boolean): void {
    if (!first) this.fault ??= "a repeated pseudo-field";
    if (this.fields.length > 0) this.fault ??= "a pseudo-field after a regular one";
  }

  #contentLength(field: HeaderField): void {
    const length = Number(field.value);
    if (this.contentLength !== undefined && this.contentLength !== length) this.fault ??= "two content lengths";
    this.contentLength = length;
    this.fields.push(field.name, field.value);
  }
}

/** RFC 9113, 8.3.1. */
export function requestFault(list: HeaderList): string | undefined {
  if (list.fault !== undefined) return list.fault;
  if (list.status !== undefined) return "a request with :status";
  if (list.method === undefined || list.method === "") return "a request without :method";
  if (list.method === "CONNECT") {
    // RFC 9113, 8.5.
    return list.authority === undefined || list.path !== undefined || list.scheme !== undefined
      ? "CONNECT takes :authority and neither :scheme nor :path"
      : undefined;
  }
  if (list.scheme === undefined || list.scheme === "") return "a request without :scheme";
  if (list.path === undefined || list.path === "") return "a request without :path";
  if (!list.path.startsWith("/") && !(list.path === "*" && list.method === "OPTIONS")) return "a :path without a slash";
  return undefined;
}

/** RFC 9113, 8.3.2. */
export function responseFault(list: HeaderList): string | undefined {
  if (list.fault !== undefined) return list.fault;
  if (hasRequestFields(list)) return "a response with fields of a request";
  return list.status !== undefined && /^[1-5]\d\d$/.test(list.status)
    ? undefined
    : "a response without a valid :status";
}

/** RFC 9113, 8.1: trailers have no pseudo-fields. */
export function trailersFault(list: HeaderList): string | undefined {
  if (list.fault !== undefined) return list.fault;
  return hasRequestFields(list) || list.status !== undefined ? "trailers with a pseudo-field" : undefined;
}

function hasRequestFields({ method, scheme, authority, path }: HeaderList): boolean {
  return method !== undefined || scheme !== undefined || authority !== undefined || path !== undefined;
}
