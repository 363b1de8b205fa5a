/**
 * The head of a `POST` whose framing nobody can read in two ways: origin-form target, one Host, one Content-Length, no
 * Transfer-Encoding, and nothing else that changes how the connection goes on.
 */
export class RequestHead {
  /** Path and query as they came. */
  readonly target: string;
  /** Of the body; at least 1. */
  readonly contentLength: number;
  readonly keepAlive: boolean;
  /** Of the head itself, its empty line included. */
  readonly length: number;
  /** Names in lower case, each followed by its value; no name comes twice. */
  readonly #fields: readonly string[];

  constructor(parts: Omit<RequestHead, "get">, fields: readonly string[]) {
    this.target = parts.target;
    this.contentLength = parts.contentLength;
    this.keepAlive = parts.keepAlive;
    this.length = parts.length;
    this.#fields = fields;
  }

  /** By lower-case name. */
  get(name: string): string | undefined {
    const fields = this.#fields;
    for (let at = 0; at < fields.length; at += 2) if (fields[at] === name) return fields[at + 1];
    return undefined;
  }
}

/** Larger heads are for node:http, which has limits and answers for them. */
const mostBytes = 8_192;
const mostFields = 48;

/**
 * RFC 9112, 3 and 5, without any of the leniencies that recipients may have: CRLF only, no folded lines, no space before
 * a colon, no control characters. obs-text (0x80 to 0xff) is read as latin1, as node:http does.
 */
const plain = /^POST (\/[\x21-\x7e]*) HTTP\/1\.1\r\n(?:[\w!#$%&'*+\-.^`|~]+:[\t\x20-\x7e\x80-\xff]*\r\n)+$/;

/** What may change the framing, the protocol or when the body is sent. */
const unusual = new Set(["transfer-encoding", "upgrade", "expect", "trailer", "http2-settings", "proxy-connection"]);

const blankLine = Buffer.from("\r\n\r\n");

/**
 * Reads the head that begins at `start`. Undefined is no verdict: another parser has to look, at the same bytes from
 * `start` on; nothing of them may have been acted upon.
 */
export function readPlainHead(bytes: Buffer, start: number): RequestHead | undefined {
  // POST: any other method is not worth a search.
  if (bytes[start] !== 0x50) return undefined;
  const end = bytes.indexOf(blankLine, start) + blankLine.length;
  if (end < blankLine.length || end - start > mostBytes) return undefined;
  const text = bytes.toString("latin1", start, end - 2);
  const target = plain.exec(text)?.[1];
  if (target === undefined) return undefined;
  const fields: string[] = [];
  let contentLength: number | undefined;
  let hasHost = false;
  let keepAlive = true;
  for (let at = text.indexOf("\r\n") + 2; at < text.length;) {
    const lineEnd = text.indexOf("\r\n", at);
    const colon = text.indexOf(":", at);
    const name = text.slice(at, colon).toLowerCase();
    const value = trimmed(text, colon + 1, lineEnd);
    at = lineEnd + 2;
    if (unusual.has(name) || fields.length === 2 * mostFields || isKnown(fields, name)) return undefined;
    if (name === "content-length") {
      if (!/^[1-9][0-9]{0,14}$/.test(value)) return undefined;
      contentLength = Number(value);
    } else if (name === "host") {
      hasHost = true;
    } else if (name === "connection") {
      const option = value.toLowerCase();
      if (option !== "keep-alive" && option !== "close") return undefined;
      keepAlive = option !== "close";
    }
    fields.push(name, value);
  }
  if (contentLength === undefined || !hasHost) return undefined;
  return new RequestHead({ target, contentLength, keepAlive, length: end - start }, fields);
}

function isKnown(fields: readonly string[], name: string): boolean {
  for (let at = 0; at < fields.length; at += 2) if (fields[at] === name) return true;
  return false;
}

/** Without the optional whitespace around it (RFC 9110, 5.6.3): space and tab alone. */
function trimmed(text: string, start: number, end: number): string {
  let from = start;
  let to = end;
  while (from < to && isBlank(text.charCodeAt(from))) from++;
  while (to > from && isBlank(text.charCodeAt(to - 1))) to--;
  return text.slice(from, to);
}

function isBlank(unit: number): boolean {
  return unit === 0x20 || unit === 0x09;
}
