import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { type GrammarText, literal } from "./grammar-text.ts";
import { integerBetween } from "./integer-range.ts";

type Schema = Readonly<Record<string, unknown>>;

/** Keywords that say nothing about validity. */
const annotations = new Set(
  (
    "$schema $id $comment $defs definitions $anchor title description default example examples deprecated readOnly " +
    "writeOnly discriminator strict"
  ).split(" "),
);
/** Keywords of each type; any other is refused by name, for leaving it out would make invalid answers. */
const keywords: Readonly<Record<string, readonly string[]>> = {
  object: ["properties", "required", "additionalProperties"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  string: ["minLength", "maxLength", "format"],
  integer: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  number: ["minimum"],
  boolean: [],
  null: [],
};
const formats: Readonly<Record<string, string>> = {
  date:
    `[0-9]{4} "-" (("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01]) | ` +
    `("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))`,
  time: `([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])`,
  uuid: `[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}`,
  email: `[a-zA-Z0-9_-]{1,32} ("." [a-zA-Z0-9_-]{1,32}){0,3} "@" [a-z0-9]{1,32} ("." [a-z0-9]{1,32}){0,2} "." [a-z]{2,6}`,
};
/** llama.cpp takes no longer repetition. */
const longestRepetition = 2_000;
const deepestSchema = 64;

/**
 * Adds the rules of a JSON Schema (draft 2020-12 and its predecessors, the part named above) and returns the rule that
 * matches. Every text it admits is valid by the schema; not every valid text is admitted: properties come in declared
 * order, undeclared ones only where nothing is declared, and `oneOf` is read as `anyOf`.
 */
export function addJsonSchema(grammar: GrammarText, text: string, field: string): string {
  return new SchemaGrammar(grammar, parseSchema(text, field), field).rule();
}

function parseSchema(text: string, field: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw invalid(`${field} is no JSON: ${error instanceof Error ? error.message : "cannot be parsed"}.`, field);
  }
}

class SchemaGrammar {
  readonly #grammar: GrammarText;
  readonly #root: unknown;
  readonly #field: string;
  readonly #references = new Map<string, string>();

  constructor(grammar: GrammarText, root: unknown, field: string) {
    this.#grammar = grammar;
    this.#root = root;
    this.#field = field;
  }

  rule(): string {
    return this.#any(this.#root, "#", 0);
  }

  #any(schema: unknown, path: string, depth: number): string {
    if (depth > deepestSchema) throw this.#unsupported(path, `nesting deeper than ${deepestSchema}`);
    if (schema === true) return "value";
    if (schema === false) throw this.#unsupported(path, "the schema false, which nothing satisfies,");
    if (!isSchema(schema)) throw invalid(`${this.#field}: ${path} must be an object or a boolean.`, this.#field);
    const used = Object.keys(schema).filter((key) => !annotations.has(key) && !key.startsWith("x-"));

    if (typeof schema["$ref"] === "string") {
      this.#only(used, ["$ref"], path);
      return this.#reference(schema["$ref"], path, depth);
    }
    for (const key of ["anyOf", "oneOf", "allOf"]) {
      const parts = schema[key];
      if (parts === undefined) continue;
      this.#only(used, [key], path);
      if (!Array.isArray(parts) || parts.length === 0) throw this.#malformed(`${path}/${key}`, "a non-empty array");
      if (key === "allOf" && parts.length > 1) throw this.#unsupported(path, "allOf with more than one schema");
      const rules = parts.map((part, index) => this.#any(part, `${path}/${key}/${index}`, depth + 1));
      return this.#grammar.add(rules.join(" | "));
    }
    if ("const" in schema) {
      this.#only(used, ["const", "type"], path);
      return this.#grammar.add(literal(jsonText(schema["const"])));
    }
    if ("enum" in schema) {
      this.#only(used, ["enum", "type"], path);
      const values = schema["enum"];
      if (!Array.isArray(values) || values.length === 0) throw this.#malformed(`${path}/enum`, "a non-empty array");
      return this.#grammar.add(values.map((value) => literal(jsonText(value))).join(" | "));
    }
    return this.#typed(schema, used, path, depth);
  }

  #typed(schema: Schema, used: readonly string[], path: string, depth: number): string {
    const types = schema["type"] === undefined ? impliedTypes(schema, used) : [schema["type"]].flat();
    const known = types.filter((type) => typeof type === "string" && Object.hasOwn(keywords, type)) as string[];
    if (known.length !== types.length)
      throw this.#malformed(`${path}/type`, `one of ${Object.keys(keywords).join(", ")}`);
    if (known.length === 0) {
      this.#only(used, ["type"], path);
      return "value";
    }
    this.#only(used, ["type", ...known.flatMap((type) => keywords[type] ?? [])], path);
    const rules = known.map((type) => this.#type(type, schema, path, depth));
    return rules.length === 1 ? rules.join("") : this.#grammar.add(rules.join(" | "));
  }

  #type(type: string, schema: Schema, path: string, depth: number): string {
    switch (type) {
      case "object":
        return this.#object(schema, path, depth);
      case "array":
        return this.#array(schema, path, depth);
      case "string":
        return this.#string(schema, path);
      case "integer":
        return this.#integer(schema, path);
      case "number":
        return this.#number(schema, path);
      default:
        return type;
    }
  }

  /**
   * Two rules for each property: what may follow when it would be the first one written, and when one came before, so
   * that commas are right whichever optional ones are left out. Built from the last to the first.
   */
  #object(schema: Schema, path: string, depth: number): string {
    const properties = this.#record(schema["properties"], `${path}/properties`);
    const required = new Set(this.#names(schema["required"], `${path}/required`));
    const additional = schema["additionalProperties"];
    const names = [...Object.keys(properties), ...[...required].filter((name) => !Object.hasOwn(properties, name))];
    if (names.length === 0) {
      if (additional === false) return this.#grammar.add(`"{" ws "}"`);
      const value =
        additional === undefined ? "value" : this.#any(additional, `${path}/additionalProperties`, depth + 1);
      const pair = this.#grammar.add(`string ":" ws ${value}`);
      return this.#grammar.add(`"{" ws (${pair} ("," ws ${pair})*)? ws "}"`);
    }
    let first = `""`;
    let next = `""`;
    for (const name of names.reverse()) {
      const value = this.#any(properties[name] ?? true, `${path}/properties/${name}`, depth + 1);
      const pair = this.#grammar.add(`${literal(JSON.stringify(name))} ":" ws ${value}`);
      first = this.#grammar.add(required.has(name) ? `${pair} ${next}` : `${pair} ${next} | ${first}`);
      next = this.#grammar.add(required.has(name) ? `"," ws ${pair} ${next}` : `("," ws ${pair})? ${next}`);
    }
    return this.#grammar.add(`"{" ws ${first} ws "}"`);
  }

  #array(schema: Schema, path: string, depth: number): string {
    const prefix = schema["prefixItems"] ?? [];
    if (!Array.isArray(prefix)) throw this.#malformed(`${path}/prefixItems`, "an array");
    const least = this.#count(schema["minItems"], 0, `${path}/minItems`);
    const most = schema["maxItems"] === undefined ? undefined : this.#count(schema["maxItems"], 0, `${path}/maxItems`);
    if (most !== undefined && most < least) throw this.#malformed(`${path}/maxItems`, `at least minItems (${least})`);
    if (prefix.length > 0) {
      // A tuple is written whole; items beyond it are allowed by the schema and never needed.
      if (least > prefix.length || (most !== undefined && most < prefix.length)) {
        throw this.#unsupported(path, "prefixItems with minItems or maxItems that differ from its length");
      }
      const items = prefix.map((item, index) => this.#any(item, `${path}/prefixItems/${index}`, depth + 1));
      return this.#grammar.add(`"[" ws ${items.join(' "," ws ')} ws "]"`);
    }
    if (most === 0) return this.#grammar.add(`"[" ws "]"`);
    const item = this.#any(schema["items"] ?? true, `${path}/items`, depth + 1);
    const more = `("," ws ${item}){${Math.max(0, least - 1)},${most === undefined ? "" : most - 1}}`;
    return this.#grammar.add(least > 0 ? `"[" ws ${item} ${more} ws "]"` : `"[" ws (${item} ${more})? ws "]"`);
  }

  #string(schema: Schema, path: string): string {
    const format = schema["format"];
    if (format !== undefined) {
      if (schema["minLength"] !== undefined || schema["maxLength"] !== undefined) {
        throw this.#unsupported(path, "format together with minLength or maxLength");
      }
      const known =
        format === "date-time"
          ? `${formats["date"]} "T" ${formats["time"]}`
          : formats[typeof format === "string" ? format : ""];
      if (known === undefined) throw this.#unsupported(path, `format ${JSON.stringify(format)}`);
      return this.#grammar.add(`"\\"" ${known} "\\""`);
    }
    const least = this.#count(schema["minLength"], 0, `${path}/minLength`);
    if (schema["maxLength"] === undefined && least === 0) return "string";
    const most = schema["maxLength"] === undefined ? "" : this.#count(schema["maxLength"], 0, `${path}/maxLength`);
    if (most !== "" && most < least) throw this.#malformed(`${path}/maxLength`, `at least minLength (${least})`);
    return this.#grammar.add(`"\\"" char{${least},${most}} "\\""`);
  }

  #integer(schema: Schema, path: string): string {
    const lows: bigint[] = [];
    const highs: bigint[] = [];
    for (const [key, list, inward, round] of [
      ["minimum", lows, 0n, Math.ceil],
      ["exclusiveMinimum", lows, 1n, Math.floor],
      ["maximum", highs, 0n, Math.floor],
      ["exclusiveMaximum", highs, -1n, Math.ceil],
    ] as const) {
      const value = schema[key];
      if (value === undefined) continue;
      if (typeof value !== "number") throw this.#malformed(`${path}/${key}`, "a number");
      list.push(BigInt(round(value)) + inward);
    }
    if (lows.length + highs.length === 0) return "integer";
    const low = lows.reduce<bigint | undefined>((a, b) => (a === undefined || b > a ? b : a), undefined);
    const high = highs.reduce<bigint | undefined>((a, b) => (a === undefined || b < a ? b : a), undefined);
    const range = integerBetween(low, high);
    if (range === undefined) throw this.#malformed(path, "a range of integers that is not empty");
    return this.#grammar.add(range);
  }

  #number(schema: Schema, path: string): string {
    if (schema["minimum"] === undefined) return "number";
    if (schema["minimum"] !== 0)
      throw this.#unsupported(path, "minimum other than 0 for a number (an integer may have any)");
    return this.#grammar.add(`("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})?`);
  }

  #reference(reference: string, path: string, depth: number): string {
    const known = this.#references.get(reference);
    if (known) return known;
    if (!reference.startsWith("#")) throw this.#unsupported(path, `the reference ${reference} out of the schema`);
    let target = this.#root;
    for (const part of reference.slice(1).split("/").filter(Boolean)) {
      const name = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
      target = isSchema(target) || Array.isArray(target) ? Reflect.get(target, name) : undefined;
    }
    if (target === undefined)
      throw invalid(`${this.#field}: ${path} refers to ${reference}, which is not there.`, this.#field);
    const name = this.#grammar.reserve();
    this.#references.set(reference, name);
    return this.#grammar.set(name, this.#any(target, reference, depth + 1));
  }

  #only(used: readonly string[], allowed: readonly string[], path: string): void {
    const foreign = used.find((key) => !allowed.includes(key));
    if (foreign !== undefined) throw this.#unsupported(path, `the keyword ${JSON.stringify(foreign)} here`);
  }

  #record(value: unknown, path: string): Schema {
    if (value === undefined) return {};
    if (!isSchema(value)) throw this.#malformed(path, "an object");
    return value;
  }

  #names(value: unknown, path: string): string[] {
    if (value === undefined) return [];
    if (!Array.isArray(value) || value.some((name) => typeof name !== "string"))
      throw this.#malformed(path, "an array of strings");
    return value as string[];
  }

  #count(value: unknown, unset: number, path: string): number {
    if (value === undefined) return unset;
    if (typeof value !== "number" || !Number.isInteger(value) || value < 0)
      throw this.#malformed(path, "a whole number");
    if (value > longestRepetition) throw this.#unsupported(path, `more than ${longestRepetition} repetitions`);
    return value;
  }

  #malformed(path: string, must: string): MeshError {
    return invalid(`${this.#field}: ${path} must be ${must}.`, this.#field);
  }

  #unsupported(path: string, what: string): MeshError {
    const message = `${this.#field}: ${path} uses ${what}, which this engine cannot enforce; leave it out or check the answer yourself.`;
    return new MeshError(Reason.UNSUPPORTED_PARAMETER, message, { field: this.#field });
  }
}

function impliedTypes(schema: Schema, used: readonly string[]): string[] {
  return Object.keys(keywords).filter(
    (type) => type !== "number" && (keywords[type] ?? []).some((key) => used.includes(key) && key in schema),
  );
}

function isSchema(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** As models write it: a space after each colon and comma. */
function jsonText(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(jsonText).join(", ")}]`;
  if (!isSchema(value)) return JSON.stringify(value) ?? "null";
  return `{${Object.entries(value)
    .map(([key, item]) => `${JSON.stringify(key)}: ${jsonText(item)}`)
    .join(", ")}}`;
}

function invalid(message: string, field: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message, { field });
}
