import { create } from "@bufbuild/protobuf";
import { type ToolCallDelta, ToolCallDeltaSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";

const openTag = "<tool_call>";
const closeTag = "</tool_call>";

export interface ParsedOutput {
  readonly text: string;
  readonly toolCalls: readonly ToolCallDelta[];
}

export interface ToolCallParserOptions {
  /** Names that the request offers; a call of any other is text. */
  readonly tools: ReadonlySet<string>;
  /** A fresh id for a tool call. */
  readonly newId: () => string;
  /** Most characters a call may have between its tags; a longer one is text. */
  readonly maxCallLength?: number;
}

/**
 * Turns `<tool_call>{"name":…,"arguments":{…}}</tool_call>` in generated text into tool calls, whatever the pieces in
 * which the text comes.
 *
 * A call is held until its closing tag and leaves as one part: what turns out malformed must reach the caller as text,
 * and half a call could not be taken back. White space between calls, and before the first one when no other text
 * came, belongs to the template and is dropped.
 */
export class ToolCallParser {
  readonly #options: ToolCallParserOptions;
  readonly #maxCallLength: number;
  /** Not yet decided; begins with the open tag while `#inCall`. */
  #held = "";
  #inCall = false;
  /** White space whose fate depends on what follows. */
  #space = "";
  /** Whether text left since the last tool call (or since the start). */
  #textSent = false;
  #count = 0;

  constructor(options: ToolCallParserOptions) {
    this.#options = options;
    this.#maxCallLength = options.maxCallLength ?? 65_536;
  }

  /** Calls recognised so far. */
  get callCount(): number {
    return this.#count;
  }

  push(piece: string): ParsedOutput {
    this.#held += piece;
    let text = "";
    const toolCalls: ToolCallDelta[] = [];
    for (;;) {
      if (this.#inCall) {
        const end = endOfCall(this.#held);
        // Without the closing tag, the last characters may be its beginning.
        const length = (end < 0 ? this.#held.length - closeTag.length + 1 : end) - openTag.length;
        if (length > this.#maxCallLength) {
          // The open tag is text after all; what follows it is looked at again.
          text += this.#release(this.#held.slice(0, openTag.length));
          this.#held = this.#held.slice(openTag.length);
          this.#inCall = false;
          continue;
        }
        if (end < 0) break;
        const whole = this.#held.slice(0, end + closeTag.length);
        this.#held = this.#held.slice(whole.length);
        this.#inCall = false;
        const call = this.#parse(whole.slice(openTag.length, end));
        if (call === undefined) {
          text += this.#release(whole);
        } else {
          toolCalls.push(call);
          this.#space = "";
          this.#textSent = false;
        }
      } else {
        const start = this.#held.indexOf(openTag);
        const plain = start < 0 ? this.#held.length - partialTagLength(this.#held) : start;
        text += this.#release(this.#held.slice(0, plain));
        this.#held = this.#held.slice(plain);
        if (start < 0) break;
        this.#inCall = true;
      }
    }
    return { text, toolCalls };
  }

  /** The text has ended: what is still held is text, an unfinished call included. */
  end(): string {
    const rest = this.#held;
    this.#held = "";
    this.#inCall = false;
    const text = rest === "" ? "" : this.#release(rest);
    // White space alone is an answer only where there is no call.
    const space = this.#count === 0 ? this.#space : "";
    this.#space = "";
    return text + space;
  }

  /** Passes text on, but holds white space while nothing else was said. */
  #release(text: string): string {
    if (text === "" || this.#textSent) return text;
    const all = this.#space + text;
    if (all.trim() === "") {
      this.#space = all;
      return "";
    }
    this.#space = "";
    this.#textSent = true;
    return all;
  }

  #parse(json: string): ToolCallDelta | undefined {
    const call = parseJson(json);
    if (!isObject(call) || typeof call["name"] !== "string" || !this.#options.tools.has(call["name"])) return undefined;
    const args = call["arguments"] ?? undefined;
    if (args !== undefined && !isObject(args)) return undefined;
    return create(ToolCallDeltaSchema, {
      index: this.#count++,
      id: this.#options.newId(),
      name: call["name"],
      // As the model wrote it: read and written again, a large integer would lose digits.
      argumentsJson: args === undefined ? "{}" : (memberText(json, "arguments") ?? "{}"),
    });
  }
}

/** Where the closing tag of the call at the head of `text` begins, or -1; one inside a JSON string is an argument's. */
function endOfCall(text: string): number {
  let inString = false;
  let from = openTag.length;
  for (let end = text.indexOf(closeTag, from); end >= 0; end = text.indexOf(closeTag, end + 1)) {
    for (; from < end; from++) {
      if (inString && text[from] === "\\") from++;
      else if (text[from] === '"') inString = !inString;
    }
    if (!inString) return end;
  }
  return -1;
}

/** Length of the longest end of `text` that begins the open tag. */
function partialTagLength(text: string): number {
  for (let length = Math.min(openTag.length - 1, text.length); length > 0; length--) {
    if (openTag.startsWith(text.slice(text.length - length))) return length;
  }
  return 0;
}

/** The text of a member's value in a JSON object, which must be valid; of several alike the last, as for JSON.parse. */
function memberText(json: string, name: string): string | undefined {
  let text: string | undefined;
  let depth = 0;
  let key: unknown;
  let valueAt = -1;
  for (let at = 0; at < json.length; at++) {
    const unit = json[at];
    if (unit === '"') {
      const from = at;
      for (at++; json[at] !== '"'; at++) if (json[at] === "\\") at++;
      if (depth === 1 && valueAt < 0) key = JSON.parse(json.slice(from, at + 1));
    } else if (unit === "{" || unit === "[") depth++;
    else if (unit === "}" || unit === "]") depth--;
    else if (unit === ":" && depth === 1) valueAt = at + 1;
    if (valueAt >= 0 && (depth === 0 || (depth === 1 && unit === ","))) {
      if (key === name) text = json.slice(valueAt, at).trim();
      valueAt = -1;
    }
  }
  return text;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Not JSON: an expected outcome of a model, told by the return value.
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
