import { newId } from "#kernel/random.ts";

/** A stretch of a rendered chat: one in which the texts of control tokens are those tokens, or one in which they are text. */
export type TextPart =
  | { readonly control: true; readonly text: string }
  /** The pieces belong together; none of them alone holds the text of a control token. */
  | { readonly control: false; readonly pieces: readonly string[] };

/**
 * Keeps what callers write from acting as control tokens ("<|im_end|>" in a message would end it and let its author
 * speak as system). Each occurrence in a caller's text is broken by an unguessable mark before the template renders it;
 * every control token that is found afterwards is the template's own. The rendered text is then cut at those, where
 * tokenizers cut anyway, so all of it has the tokens that it would have had, but for the occurrences. Where none occurs
 * nothing is cut.
 */
export class ControlTexts {
  readonly #pattern: RegExp | undefined;
  /**
   * What a text may end or begin with that becomes a control token with what the template puts beside it. Not white
   * space: a mark behind it would hinder templates that trim.
   */
  readonly #beginnings = new Set<string>();
  readonly #ends = new Set<string>();
  readonly #longest: number;

  /** Texts of the vocabulary's control tokens; one of a single character cannot be broken and is left as it is. */
  constructor(texts: readonly string[]) {
    const breakable = texts.filter((text) => text.length > 1 && !/^(.|\d+)$/su.test(text));
    const longestFirst = [...new Set(breakable)].sort((a, b) => b.length - a.length);
    this.#longest = longestFirst[0]?.length ?? 0;
    this.#pattern = longestFirst.length === 0 ? undefined : new RegExp(longestFirst.map(escaped).join("|"), "gu");
    for (const text of longestFirst) {
      for (let at = 1; at < text.length; at++) {
        const [beginning, end] = [text.slice(0, at), text.slice(at)];
        if (beginning === beginning.trimEnd()) this.#beginnings.add(beginning);
        if (end === end.trimStart()) this.#ends.add(end);
      }
    }
  }

  /** For one rendering. */
  guard(): Guard {
    return new Guard(this);
  }

  /** The text with `mark` inside each occurrence, and at its borders where an occurrence could arise there. */
  broken(text: string, mark: string): string {
    if (!this.#pattern) return text;
    let safe = text;
    // Again, because occurrences overlap. Each round breaks one at least, and makes none.
    for (let before = ""; before !== safe;) {
      before = safe;
      safe = safe.replace(this.#pattern, (found) => {
        const first = String.fromCodePoint(found.codePointAt(0) ?? 0);
        return first + mark + found.slice(first.length);
      });
    }
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length--) {
      if (!this.#beginnings.has(text.slice(-length))) continue;
      safe += mark;
      break;
    }
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length--) {
      if (!this.#ends.has(text.slice(0, length))) continue;
      safe = mark + safe;
      break;
    }
    return safe;
  }

  /** Cuts a rendered text at its control tokens, where the stretch between two holds a mark. */
  cut(rendered: string, mark: string): TextPart[] {
    const unmarked = rendered.replaceAll(mark, "");
    if (this.#count(unmarked) === this.#count(rendered)) return [{ control: true, text: unmarked }];
    const parts: TextPart[] = [];
    let trusted = "";
    const endTrusted = (): void => {
      if (trusted !== "") parts.push({ control: true, text: trusted });
      trusted = "";
    };
    const addStretch = (text: string): void => {
      if (!text.includes(mark)) {
        trusted += text;
        return;
      }
      endTrusted();
      parts.push({ control: false, pieces: text.split(mark) });
    };
    let at = 0;
    for (const found of this.#found(rendered)) {
      addStretch(rendered.slice(at, found.index));
      trusted += found[0];
      at = found.index + found[0].length;
    }
    addStretch(rendered.slice(at));
    endTrusted();
    return parts;
  }

  #found(text: string): RegExpExecArray[] {
    return this.#pattern ? [...text.matchAll(this.#pattern)] : [];
  }

  #count(text: string): number {
    return this.#found(text).length;
  }
}

/** Breaks the texts of one chat and cuts its rendering. */
export class Guard {
  readonly #controls: ControlTexts;
  /** Digits, because templates may change case or escape what is not ASCII; 128 random bits of them. */
  readonly #mark = BigInt(`0x${newId("").slice(1)}`).toString();
  #marked = false;

  constructor(controls: ControlTexts) {
    this.#controls = controls;
  }

  text(text: string): string {
    const safe = this.#controls.broken(text, this.#mark);
    this.#marked ||= safe !== text;
    return safe;
  }

  /** All strings in a JSON value, names included. */
  value(value: unknown): unknown {
    if (typeof value === "string") return this.text(value);
    if (Array.isArray(value)) return value.map((item) => this.value(item));
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [this.text(name), this.value(item)]));
  }

  /** One part when nothing was broken. */
  cut(rendered: string): TextPart[] {
    return this.#marked ? this.#controls.cut(rendered, this.#mark) : [{ control: true, text: rendered }];
  }
}

export function textOfPart(part: TextPart): string {
  return part.control ? part.text : part.pieces.join("");
}

function escaped(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`);
}
