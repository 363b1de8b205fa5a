import type { TextPart } from "./control-texts.ts";
import type { AddonModel, NativeModel } from "./native.ts";
import { type TokenPiece, Utf8Text } from "./utf8-text.ts";

/** llama.cpp's `llama_vocab_type`. */
const sentencePieceVocabulary = 1;
const bytePairVocabulary = 2;
/** llama.cpp's `llama_token_attr`. */
const attributes = { unknown: 1, normal: 4, control: 8, userDefined: 16, byte: 32 };

const nothing = new Uint8Array(0);
const encoder = new TextEncoder();
const strictDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Text to tokens and back. The way back is made here from the vocabulary's own table, byte for byte, because the
 * binding's detokenizer answers in strings and so loses characters that are spread over several tokens. Control tokens
 * are no text; what the file calls user-defined is.
 */
export class Vocabulary {
  readonly #addon: AddonModel;
  readonly #pieces: (TokenPiece | undefined)[] = [];
  readonly #bytePairs: boolean;
  readonly #bos: number | undefined;
  readonly size: number;
  /** Bytes of the longest token; 0 where the tokenizer may shorten a text before it cuts it. */
  readonly #longestBytes: number;

  constructor(model: Pick<NativeModel, "addon" | "vocabularySize">) {
    this.#addon = model.addon;
    this.size = model.vocabularySize;
    this.#longestBytes = this.#measure(model.addon.getVocabularyType());
    this.#bytePairs = model.addon.getVocabularyType() === bytePairVocabulary;
    this.#bos = model.addon.shouldPrependBosToken() ? model.addon.tokenBos() : undefined;
  }

  /** Special tokens written in the text count as such; the begin token comes first where the model wants one. */
  tokenize(text: string): Uint32Array {
    return this.#withBos(this.#addon.tokenize(text, true));
  }

  /** A rendered chat; control tokens come from its `control` parts only. */
  tokenizeParts(parts: readonly TextPart[]): Uint32Array {
    const tokens = parts.map((part) =>
      part.control ? this.#addon.tokenize(part.text, true) : this.#plainTokens(part.pieces),
    );
    return this.#withBos(tokens.length === 1 && tokens[0] ? tokens[0] : joined(tokens));
  }

  /** Texts that llama.cpp's tokenizer takes for control tokens; user-defined tokens are text by the file's own word. */
  controlTexts(): string[] {
    const mask = attributes.control | attributes.unknown;
    const texts: string[] = [];
    for (let token = 0; token < this.size; token++) {
      if (this.#addon.getTokenAttributes(token) & mask) texts.push(this.#addon.getTokenString(token) ?? "");
    }
    return texts;
  }

  /** A lower bound of `tokenize(text).length` that costs nothing, to refuse what is hopelessly long. */
  fewestTokens(text: string): number {
    return this.#longestBytes === 0 ? 0 : Math.ceil(Buffer.byteLength(text) / this.#longestBytes);
  }

  endsGeneration(token: number): boolean {
    return this.#addon.isEogToken(token);
  }

  piece(token: number): TokenPiece {
    let piece = this.#pieces[token];
    if (!piece) {
      const bytes = this.#bytes(token);
      piece = { bytes, text: wholeText(bytes) };
      this.#pieces[token] = piece;
    }
    return piece;
  }

  /** All of it as text, unfinished characters at the end included. */
  text(tokens: Iterable<number>): string {
    const text = new Utf8Text();
    let whole = "";
    for (const token of tokens) whole += text.push(this.piece(token));
    return whole + text.flush();
  }

  /**
   * SentencePiece merges letters to whatever stands in the vocabulary, so that "<", "s", ">" can become "<s>" even as
   * text. Then the pieces are taken one by one; models that want a space before each text get one more between them.
   */
  #plainTokens(pieces: readonly string[]): Uint32Array {
    const tokens = this.#addon.tokenize(pieces.join(""), false);
    const control = tokens.some((token) => this.#addon.getTokenAttributes(token) & attributes.control);
    return control ? joined(pieces.map((piece) => this.#addon.tokenize(piece, false))) : tokens;
  }

  #withBos(tokens: Uint32Array): Uint32Array {
    if (this.#bos === undefined || tokens[0] === this.#bos) return tokens;
    return joined([Uint32Array.of(this.#bos), tokens]);
  }

  #measure(kind: number): number {
    if (kind !== sentencePieceVocabulary && kind !== bytePairVocabulary) return 0;
    let longest = 0;
    for (let token = 0; token < this.size; token++) {
      longest = Math.max(longest, Buffer.byteLength(this.#addon.getTokenString(token) ?? ""));
    }
    return longest;
  }

  #bytes(token: number): Uint8Array {
    const text = this.#addon.getTokenString(token) ?? "";
    const attribute = this.#addon.getTokenAttributes(token);
    if (attribute & (attributes.control | attributes.unknown)) return nothing;
    if (attribute & attributes.userDefined) return encoder.encode(text);
    if (attribute & attributes.byte) return Uint8Array.of(Number.parseInt(text.slice(3, 5), 16));
    return this.#bytePairs ? bytePairBytes(text) : encoder.encode(text.replaceAll("▁", " "));
  }
}

function joined(parts: readonly Uint32Array[]): Uint32Array {
  const whole = new Uint32Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function wholeText(bytes: Uint8Array): string | undefined {
  try {
    return strictDecoder.decode(bytes);
  } catch {
    // Not whole UTF-8: an ordinary answer here, not a fault.
    return undefined;
  }
}

/** The byte of each character in a GPT-2 vocabulary: printable ones stand for themselves, the rest from U+0100 on. */
const byteOfCharacter = new Map<string, number>();
let next = 0x100;
for (let byte = 0; byte < 0x100; byte++) {
  const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  byteOfCharacter.set(String.fromCodePoint(printable ? byte : next++), byte);
}

function bytePairBytes(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of text) {
    const byte = byteOfCharacter.get(character);
    if (byte === undefined) bytes.push(...encoder.encode(character));
    else bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}
