/** What a header field means to HTTP/2 itself; found once per field, so that an indexed field costs nothing. */
export type FieldRole =
  | "regular"
  | "content-length"
  | ":method"
  | ":scheme"
  | ":authority"
  | ":path"
  | ":status"
  | "malformed";

export class HeaderField {
  readonly name: string;
  /** One character a byte. */
  readonly value: string;
  /** RFC 7541, 4.1. */
  readonly size: number;
  readonly role: FieldRole;

  constructor(name: string, value: string) {
    this.name = name;
    this.value = value;
    this.size = name.length + value.length + 32;
    this.role = roleOf(name, value);
  }
}

function roleOf(name: string, value: string): FieldRole {
  if (!isValue(value)) return "malformed";
  switch (name) {
    case ":method":
    case ":scheme":
    case ":authority":
    case ":path":
    case ":status":
      return name;
    case "content-length":
      return /^\d{1,15}$/.test(value) ? name : "malformed";
    // RFC 9113, 8.2.2: fields of one HTTP/1.1 connection.
    case "connection":
    case "proxy-connection":
    case "keep-alive":
    case "transfer-encoding":
    case "upgrade":
      return "malformed";
    case "te":
      return value === "trailers" ? "regular" : "malformed";
    default:
      return isName(name) ? "regular" : "malformed";
  }
}

/** A token (RFC 9110, 5.6.2) without upper case (RFC 9113, 8.2.1): no colon, so no unknown pseudo-field. */
export function isName(name: string): boolean {
  return /^[!#$%&'*+\-.^_`|~0-9a-z]+$/.test(name);
}

/** RFC 9113, 8.2.1: no NUL, CR or LF, and no white space at either end. */
export function isValue(value: string): boolean {
  for (let at = 0; at < value.length; at++) {
    const code = value.charCodeAt(at);
    if (code === 0 || code === 0x0a || code === 0x0d || code > 0xff) return false;
  }
  return !isBlank(value.charCodeAt(0)) && !isBlank(value.charCodeAt(value.length - 1));
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09;
}
