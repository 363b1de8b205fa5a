import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { nearestName } from "#kernel/nearest-name.ts";

/**
 * Reads one JSON object of a request. Every read names the field; `end` refuses all that nobody read, so that no
 * parameter is ever ignored in silence. A field that is null counts as absent, as OpenAI treats it. Only own properties
 * are looked at: a key such as `__proto__` is an unknown field like any other.
 */
export class Fields {
  readonly path: string;
  readonly #values: Readonly<Record<string, unknown>>;
  /** Names that were asked for, there or not; a name may be in it twice. */
  readonly #read: string[] = [];

  /** @throws MeshError INVALID_REQUEST when `value` is not a JSON object. `path` is "" for the body itself. */
  constructor(value: unknown, path: string) {
    if (!isObject(value)) throw wrong(path, value, "a JSON object");
    this.path = path;
    this.#values = value;
  }

  at(name: string): string {
    return this.path === "" ? name : `${this.path}.${name}`;
  }

  /** The value as it came, undefined when absent or null. The caller checks it. */
  raw(name: string): unknown {
    this.#read.push(name);
    return Object.hasOwn(this.#values, name) ? (this.#values[name] ?? undefined) : undefined;
  }

  /** Lengths are UTF-16 code units. */
  text(name: string, min = 0, max = Number.POSITIVE_INFINITY): string | undefined {
    const value = this.raw(name);
    if (value === undefined || isText(value, min, max)) return value;
    return textAt(this.at(name), value, min, max);
  }

  requiredText(name: string, min = 0, max = Number.POSITIVE_INFINITY): string {
    return this.text(name, min, max) ?? this.#missing(name, lengthOf("a string", min, max, "characters"));
  }

  number(name: string, min: number, max: number): number | undefined {
    const value = this.raw(name);
    return value === undefined ? undefined : numberAt(this.at(name), value, min, max);
  }

  integer(name: string, min: number, max: number): number | undefined {
    const value = this.raw(name);
    return value === undefined ? undefined : integerAt(this.at(name), value, min, max);
  }

  boolean(name: string): boolean | undefined {
    const value = this.raw(name);
    if (value !== undefined && typeof value !== "boolean") throw wrong(this.at(name), value, "true or false");
    return value;
  }

  choice<const T extends string>(name: string, options: readonly T[]): T | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    const chosen = options.find((option) => option === value);
    if (chosen === undefined) throw wrong(this.at(name), value, oneOf(options));
    return chosen;
  }

  requiredChoice<const T extends string>(name: string, options: readonly T[]): T {
    return this.choice(name, options) ?? this.#missing(name, oneOf(options));
  }

  list(name: string, min: number, max: number): readonly unknown[] | undefined {
    const value = this.raw(name);
    return value === undefined ? undefined : listAt(this.at(name), value, min, max);
  }

  object(name: string): Fields | undefined {
    const value = this.raw(name);
    return value === undefined ? undefined : new Fields(value, this.at(name));
  }

  /** The keys and values of an object whose keys the caller of the API chose. */
  entries(name: string, max: number): readonly (readonly [string, unknown])[] {
    const value = this.raw(name);
    if (value === undefined) return [];
    if (!isObject(value)) throw wrong(this.at(name), value, "a JSON object");
    const entries = Object.entries(value);
    if (entries.length > max) {
      throw invalid(
        this.at(name),
        `${this.at(name)} has ${entries.length} entries; at most ${max} are allowed.`,
        `${max} entries`,
      );
    }
    return entries;
  }

  /** A JSON object that is passed on as text. */
  jsonText(name: string, maxBytes: number): string | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (!isObject(value)) throw wrong(this.at(name), value, "a JSON object");
    const text = JSON.stringify(value);
    const bytes = Buffer.byteLength(text);
    if (bytes > maxBytes) {
      const limit = `${maxBytes} bytes`;
      throw invalid(this.at(name), `${this.at(name)} is ${bytes} bytes of JSON; at most ${limit} are allowed.`, limit);
    }
    return text;
  }

  required<T>(name: string, value: T | undefined, expectation: string): NonNullable<T> {
    return value ?? this.#missing(name, expectation);
  }

  #missing(name: string, expectation: string): never {
    throw invalid(this.at(name), `${this.at(name)} is missing; expected ${expectation}.`);
  }

  /** A parameter of OpenAI's that means something elsewhere: only the values that change nothing here are taken. */
  noOp(name: string, accepted: readonly (string | boolean | number)[]): void {
    const value = this.raw(name);
    if (value === undefined || accepted.some((one) => one === value)) return;
    const shown = accepted.map((one) => JSON.stringify(one)).join(" or ");
    throw unsupported(
      this.at(name),
      `${this.at(name)} is ${describe(value)}, which is not supported; leave it out or send ${shown}.`,
    );
  }

  /** A parameter of OpenAI's that is not supported with any value but null; `advice` says what to do instead. */
  refuse(name: string, advice: string): void {
    if (this.raw(name) !== undefined) throw unsupported(this.at(name), `${this.at(name)} is not supported; ${advice}.`);
  }

  /** @throws MeshError UNSUPPORTED_PARAMETER that names the first field nobody read. */
  end(): void {
    const unknown = Object.keys(this.#values).find((name) => !this.#read.includes(name));
    if (unknown === undefined) return;
    const path = this.at(unknown.length > 64 ? `${unknown.slice(0, 64)}…` : unknown);
    const near = unknown.length > 64 ? undefined : nearestName(unknown, [...new Set(this.#read)]);
    const advice = near === undefined ? "remove it" : `remove it, or did you mean ${this.at(near)}?`;
    throw unsupported(path, `Unknown parameter ${path}; ${advice}${near === undefined ? "." : ""}`);
  }
}

function isText(value: unknown, min: number, max: number): value is string {
  return typeof value === "string" && value.length >= min && value.length <= max;
}

export function textAt(path: string, value: unknown, min: number, max: number): string {
  if (!isText(value, min, max)) throw wrong(path, value, lengthOf("a string", min, max, "characters"));
  return value;
}

export function numberAt(path: string, value: unknown, min: number, max: number): number {
  if (typeof value !== "number" || !(value >= min && value <= max)) {
    throw wrong(path, value, `a number from ${min} to ${max}`);
  }
  return value;
}

export function integerAt(path: string, value: unknown, min: number, max: number): number {
  if (!Number.isSafeInteger(value) || typeof value !== "number" || value < min || value > max) {
    throw wrong(path, value, `an integer from ${min} to ${max}`);
  }
  return value;
}

export function listAt(path: string, value: unknown, min: number, max: number): readonly unknown[] {
  if (!Array.isArray(value)) throw wrong(path, value, lengthOf("an array", min, max, "entries"));
  if (value.length < min || value.length > max) {
    const expected = lengthOf("an array", min, max, "entries");
    throw invalid(path, `${path} has ${value.length} entries; expected ${expected}.`, `${max} entries`);
  }
  return value;
}

/** A value of a wrong type or outside its limits. Long strings are not quoted: they may be prompts. */
export function wrong(path: string, value: unknown, expectation: string): MeshError {
  return invalid(path, `${path === "" ? "The request body" : path} is ${describe(value)}; expected ${expectation}.`);
}

export function invalid(path: string, message: string, limit?: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message, limit === undefined ? { field: path } : { field: path, limit });
}

export function unsupported(path: string, message: string): MeshError {
  return new MeshError(Reason.UNSUPPORTED_PARAMETER, message, { field: path });
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function oneOf(options: readonly string[]): string {
  return options.length === 1 ? `"${options[0]}"` : `one of ${options.map((option) => `"${option}"`).join(", ")}`;
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) return "an array";
  // One such as 1e400 is infinite here, for which JSON has no word.
  if (typeof value === "number") return String(value);
  if (typeof value === "object") return "an object";
  if (typeof value === "string" && value.length > 40) return `a string of ${value.length} characters`;
  return JSON.stringify(value);
}

function lengthOf(what: string, min: number, max: number, unit: string): string {
  if (Number.isFinite(max)) return `${what} of ${min} to ${max} ${unit}`;
  return min === 0 ? what : `${what} of at least ${min} ${unit}`;
}
