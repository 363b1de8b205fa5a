/** Collects the rules of one GBNF grammar (llama.cpp's notation); equal names are the same rule. */
export class GrammarText {
  readonly #rules = new Map<string, string>();
  #unnamed = 0;

  /** Adds a rule under a name of its own and returns that name. */
  add(body: string): string {
    const name = `r${this.#unnamed++}`;
    this.#rules.set(name, body);
    return name;
  }

  /** A name for a rule whose body is not known yet, for one that refers to itself. */
  reserve(): string {
    return this.add('""');
  }

  set(name: string, body: string): string {
    this.#rules.set(name, body);
    return name;
  }

  toString(root: string): string {
    const rules = [...this.#rules].map(([name, body]) => `${name} ::= ${body}`);
    return [`root ::= ${root}`, ...rules, ...jsonRules].join("\n");
  }
}

/** The JSON value rules, always present. Whitespace and numbers are bounded, so that no model loops inside them. */
const jsonRules = [
  `ws ::= "" | " " | "\\n" [ \\t]{0,20}`,
  `char ::= [^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\/bfnrt] | "u" [0-9a-fA-F]{4})`,
  `string ::= "\\"" char* "\\""`,
  `integer ::= "-"? ("0" | [1-9] [0-9]{0,14})`,
  `number ::= integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?`,
  `boolean ::= "true" | "false"`,
  `null ::= "null"`,
  `object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? ws "}"`,
  `array ::= "[" ws (value ("," ws value)*)? ws "]"`,
  `value ::= object | array | string | number | boolean | null`,
];

/** A literal of the grammar that matches exactly this text. */
export function literal(text: string): string {
  let escaped = "";
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0;
    if (character === "\\" || character === '"') escaped += `\\${character}`;
    else if (code < 0x20 || code === 0x7f) escaped += `\\x${code.toString(16).padStart(2, "0")}`;
    else escaped += character;
  }
  return `"${escaped}"`;
}
