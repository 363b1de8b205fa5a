import { parseArgs, type ParseArgsConfig } from "node:util";
import type { Session } from "./session.ts";

/** One value that a command takes by its place. */
export interface Positional {
  readonly name: string;
  readonly doc: string;
  /** May be left out; only the last ones can be. */
  readonly optional?: boolean;
  /** Takes every word that is left, joined by spaces. */
  readonly rest?: boolean;
}

/** `--name VALUE`, or `--name` alone where `value` is not set. */
export interface Option {
  readonly name: string;
  readonly value?: string;
  readonly doc: string;
  readonly multiple?: boolean;
  readonly required?: boolean;
}

/** One command, such as `models list`; its help and its parser come from this declaration. */
export interface Command {
  readonly path: readonly string[];
  readonly summary: string;
  readonly positionals?: readonly Positional[];
  readonly options?: readonly Option[];
  run(input: Input, session: Session): Promise<void>;
}

/** The caller wrote something that is no command of ours: exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Options that every command has. */
export const globalOptions: readonly Option[] = [
  { name: "json", doc: "Print JSON (protobuf's mapping: 64-bit numbers are strings) instead of a table." },
  {
    name: "state",
    value: "DIR",
    doc: "State folder of a local mesh, for what is not given. [.helixmesh] HELIXMESH_STATE_DIR",
  },
  { name: "control-url", value: "URL", doc: "The control plane. [run.json of the state folder] HELIXMESH_CONTROL_URL" },
  { name: "router-url", value: "URL", doc: "A router. [run.json of the state folder] HELIXMESH_ROUTER_URL" },
  {
    name: "operator-key-file",
    value: "FILE",
    doc: "File with a key of role operator. [operator-key of the state folder] HELIXMESH_OPERATOR_KEY_FILE",
  },
  {
    name: "key-file",
    value: "FILE",
    doc: "File with a key of role inference, for chat. [key of the state folder] HELIXMESH_KEY_FILE",
  },
  { name: "help", doc: "Show this." },
];

/** What the caller wrote, checked against the declaration. */
export class Input {
  readonly #positionals: ReadonlyMap<string, string>;
  readonly #values: Readonly<Record<string, unknown>>;

  constructor(positionals: ReadonlyMap<string, string>, values: Readonly<Record<string, unknown>>) {
    this.#positionals = positionals;
    this.#values = values;
  }

  /** Empty for an optional positional that was left out. */
  positional(name: string): string {
    return this.#positionals.get(name) ?? "";
  }

  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  text(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === "string" ? value : undefined;
  }

  list(name: string): readonly string[] {
    const value = this.#values[name];
    return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
  }

  /** A whole number; undefined when the option was left out. */
  integer(name: string): number | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : parseInteger(`--${name}`, text);
  }

  /** A decimal number within [min, max]; undefined when the option was left out. */
  decimal(name: string, min: number, max: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = Number(text);
    if (text.trim() === "" || !(value >= min && value <= max)) {
      throw new UsageError(`--${name} is "${text}"; it must be a number from ${min} to ${max}.`);
    }
    return value;
  }

  /** `key=value` pairs of a repeatable option. */
  pairs(name: string): Record<string, string> {
    const pairs: Record<string, string> = {};
    for (const item of this.list(name)) {
      const at = item.indexOf("=");
      if (at < 1) throw new UsageError(`--${name} is "${item}"; it must have the form KEY=VALUE.`);
      pairs[item.slice(0, at)] = item.slice(at + 1);
    }
    return pairs;
  }
}

export function parseInteger(field: string, text: string): number {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value <= 0xffff_ffff))
    throw new UsageError(`${field} is "${text}"; it must be a whole number, 0 to 4294967295.`);
  return value;
}

/** Checks the words after the command's name. Throws a UsageError that names what is wrong. */
export function parseInput(command: Command, words: readonly string[]): Input {
  const declared = [...(command.options ?? []), ...globalOptions];
  const options: NonNullable<ParseArgsConfig["options"]> = {};
  for (const option of declared) {
    options[option.name] = {
      type: option.value === undefined ? "boolean" : "string",
      multiple: option.multiple ?? false,
      ...(option.name === "help" ? { short: "h" } : {}),
    };
  }
  const { values, positionals } = parseWords(words, options);
  const input = new Input(namePositionals(command, positionals, values["help"] === true), values);
  if (!input.flag("help")) {
    for (const option of declared) {
      const given = option.multiple ? input.list(option.name).length > 0 : input.text(option.name) !== undefined;
      if (option.required && !given) throw new UsageError(`--${option.name} ${option.value} is required.`);
    }
  }
  return input;
}

function parseWords(words: readonly string[], options: NonNullable<ParseArgsConfig["options"]>) {
  try {
    return parseArgs({ args: [...words], options, allowPositionals: true, strict: true });
  } catch (error) {
    // Node's messages name the option; the advice that may follow the first sentence is about Node's own syntax.
    throw new UsageError(error instanceof Error ? (error.message.split(". ")[0] ?? error.message) : String(error));
  }
}

function namePositionals(command: Command, given: readonly string[], help: boolean): Map<string, string> {
  const named = new Map<string, string>();
  const declared = command.positionals ?? [];
  for (const [index, positional] of declared.entries()) {
    const value = positional.rest ? given.slice(index).join(" ") : given[index];
    if (value !== undefined && value !== "") named.set(positional.name, value);
    else if (!positional.optional && !help) throw new UsageError(`${positional.name} is missing: ${positional.doc}`);
  }
  const extra = given[declared.length];
  if (extra !== undefined && !declared.at(-1)?.rest) throw new UsageError(`"${extra}" is one word too many.`);
  return named;
}
