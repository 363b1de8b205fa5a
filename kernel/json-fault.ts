export interface JsonFault {
  /** UTF-16 offset of the first character that cannot be; the text's length when it ends too soon. */
  readonly offset: number;
  /** What would have been right there. */
  readonly expected: string;
}

const space = /[ \t\n\r]*/y;
const number = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const literal = /true|false|null/y;

type Want = "value" | "value or ]" | "key" | "key or }" | ":" | "next";

/** Where a text stops being JSON (RFC 8259); undefined when it never does. Linear and without recursion. */
export function findJsonFault(text: string): JsonFault | undefined {
  const open: ("{" | "[")[] = [];
  let want: Want = "value";
  let at = skip(space, text, 0);
  for (;;) {
    const char = text[at];
    if (want === "next" && open.length === 0) {
      return at === text.length ? undefined : { offset: at, expected: "the end of the body" };
    }
    const innermost = open.at(-1);
    if (
      (char === "}" && innermost === "{" && (want === "key or }" || want === "next")) ||
      (char === "]" && innermost === "[" && (want === "value or ]" || want === "next"))
    ) {
      open.pop();
      want = "next";
      at++;
    } else if (want === "next") {
      if (char !== ",") return { offset: at, expected: innermost === "{" ? "',' or '}'" : "',' or ']'" };
      want = innermost === "{" ? "key" : "value";
      at++;
    } else if (want === ":") {
      if (char !== ":") return { offset: at, expected: "':'" };
      want = "value";
      at++;
    } else if (want === "key" || want === "key or }") {
      if (char !== '"')
        return { offset: at, expected: want === "key" ? "a key in double quotes" : "a key in double quotes or '}'" };
      const end = stringEnd(text, at);
      if (typeof end !== "number") return end;
      at = end;
      want = ":";
    } else if (char === "{" || char === "[") {
      open.push(char);
      want = char === "{" ? "key or }" : "value or ]";
      at++;
    } else if (char === '"') {
      const end = stringEnd(text, at);
      if (typeof end !== "number") return end;
      at = end;
      want = "next";
    } else {
      const end = Math.max(skip(number, text, at), skip(literal, text, at));
      if (end === at) return { offset: at, expected: want === "value" ? "a value" : "a value or ']'" };
      at = end;
      want = "next";
    }
    at = skip(space, text, at);
  }
}

/** The offset after a match at `at`; `at` itself when there is none. */
function skip(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : at;
}

function stringEnd(text: string, start: number): number | JsonFault {
  for (let at = start + 1; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x22) return at + 1;
    if (code < 0x20) return { offset: at, expected: "no bare control character inside a string" };
    if (code !== 0x5c) continue;
    at++;
    const escape = text[at];
    if (escape === undefined) break;
    if (escape === "u") {
      for (let digit = 1; digit <= 4; digit++) {
        if (!/^[0-9a-fA-F]$/.test(text[at + digit] ?? ""))
          return { offset: Math.min(at + digit, text.length), expected: "four hex digits after \\u" };
      }
      at += 4;
    } else if (!'"\\/bfnrt'.includes(escape)) {
      return { offset: at, expected: "an escape such as \\n or \\\\" };
    }
  }
  return { offset: text.length, expected: "the closing double quote of a string" };
}
