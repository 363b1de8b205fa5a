import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { findJsonFault } from "#kernel/json-fault.ts";

/** Nothing in this API nests deeper than tool schemas do; millions of `[` would cost 50 times their bytes in memory. */
const deepestNesting = 128;

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** @throws MeshError INVALID_REQUEST that names the position; it never quotes the body. */
export function parseJson(bytes: Uint8Array): unknown {
  const text = jsonText(bytes);
  try {
    return JSON.parse(text);
  } catch {
    // The engine's message quotes the body and often has no position, so the fault is looked for again.
    const fault = findJsonFault(text) ?? { offset: text.length, expected: "valid JSON" };
    const found =
      fault.offset >= text.length ? "the end of the body" : `character ${JSON.stringify(text[fault.offset])}`;
    throw invalid(
      `The request body is not valid JSON: found ${found} ${position(text, fault.offset)}, expected ${fault.expected}.`,
    );
  }
}

/** The text of a body that may be JSON. @throws MeshError INVALID_REQUEST: empty, no UTF-8, or nested too deep to parse */
export function jsonText(bytes: Uint8Array): string {
  if (bytes.length === 0) throw invalid("The request body is empty; send a JSON object.");
  const text = decode(bytes);
  const tooDeep = findTooDeep(text);
  if (tooDeep !== undefined) {
    throw invalid(
      `The request body nests deeper than ${deepestNesting} levels ${position(text, tooDeep)}; flatten it.`,
      `${deepestNesting} levels`,
    );
  }
  return text;
}

function decode(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    // TextDecoder says no more than "invalid".
    throw invalid("The request body is not valid UTF-8; encode the JSON as UTF-8.");
  }
}

function invalid(message: string, limit?: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message, limit === undefined ? {} : { limit });
}

/** Offset of the first bracket beyond the limit; counts brackets outside strings, whether or not the rest is JSON. */
function findTooDeep(text: string): number | undefined {
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const char = text.charCodeAt(at);
    if (char === 0x22) {
      at = endOfString(text, at + 1);
    } else if (char === 0x5b || char === 0x7b) {
      if (++depth > deepestNesting) return at;
    } else if (char === 0x5d || char === 0x7d) {
      depth--;
    }
  }
  return undefined;
}

function endOfString(text: string, from: number): number {
  for (let quote = text.indexOf('"', from); quote !== -1; quote = text.indexOf('"', quote + 1)) {
    let backslashes = 0;
    while (text.charCodeAt(quote - 1 - backslashes) === 0x5c && quote - 1 - backslashes >= from) backslashes++;
    if (backslashes % 2 === 0) return quote;
  }
  return text.length;
}

function position(text: string, offset: number): string {
  const before = text.slice(0, offset);
  const line = before.split("\n").length;
  const column = offset - before.lastIndexOf("\n");
  return `at line ${line} column ${column} (offset ${offset})`;
}
