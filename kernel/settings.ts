import { parseArgs } from "node:util";
import type { AnySetting, Parsed, Setting } from "#kernel/setting.ts";
import { nearestName } from "#kernel/nearest-name.ts";

export { type HostPort, type Setting, setting } from "#kernel/setting.ts";

/** All settings of a service by property name; parser, type, `--help` and documentation come from it. */
export type Declaration = Readonly<Record<string, AnySetting>>;

export type SettingsOf<D extends Declaration> = {
  readonly [K in keyof D]: D[K] extends Setting<infer T> ? T : never;
};

export interface SettingsSource {
  /** Arguments after the script name. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** How the user calls this command, for `--help`, such as `helixmesh router`. */
  readonly command: string;
}

export type LoadedSettings<D extends Declaration> =
  | { readonly kind: "settings"; readonly settings: SettingsOf<D> }
  | { readonly kind: "help"; readonly text: string }
  | { readonly kind: "errors"; readonly errors: string[] };

/** Keeps the literal type and refuses two settings with one name. */
export function defineSettings<const D extends Declaration>(declaration: D): D {
  const taken = new Set(["help"]);
  for (const { env, flag } of Object.values(declaration)) {
    for (const name of [env, flag]) {
      if (taken.has(name)) throw new Error(`two settings are named ${name}`);
      taken.add(name);
    }
  }
  return declaration;
}

/** A flag wins over the environment, the environment over the default. Reports all errors, not the first. */
export function loadSettings<D extends Declaration>(declaration: D, source: SettingsSource): LoadedSettings<D> {
  const flags = parseFlags(declaration, source);
  if (flags.help) return { kind: "help", text: helpText(declaration, source.command) };
  const errors = [...flags.errors];
  const settings: Record<string, unknown> = {};
  for (const [name, declared] of Object.entries(declaration)) {
    const fromFlag = flags.values.get(declared.flag);
    const fromEnv = source.env[declared.env];
    // An empty variable means unset, as `VAR= command` and empty lines of an environment file do.
    const text = fromFlag ?? (fromEnv === "" ? undefined : fromEnv);
    if (text === undefined) {
      settings[name] = declared.default;
      continue;
    }
    const parsed: Parsed<unknown> = declared.parse(text);
    if (parsed.ok) settings[name] = parsed.value;
    else errors.push(describeFault(declared, text, parsed.expected, fromFlag !== undefined));
  }
  if (errors.length > 0) return { kind: "errors", errors };
  // Every property of the declaration was assigned above from its own parser or default.
  return { kind: "settings", settings: settings as SettingsOf<D> };
}

function describeFault(declared: AnySetting, text: string, expected: string, isFlag: boolean): string {
  const name = isFlag ? `--${declared.flag}` : declared.env;
  return `${name} is ${declared.secret ? "invalid" : JSON.stringify(text)}; it must be ${expected}`;
}

interface Flags {
  readonly help: boolean;
  readonly values: ReadonlyMap<string, string>;
  readonly errors: readonly string[];
}

function parseFlags(declaration: Declaration, source: SettingsSource): Flags {
  const declared = Object.values(declaration);
  const options: Record<string, { type: "string" | "boolean" }> = { help: { type: "boolean" } };
  for (const { flag, isBoolean } of declared) options[flag] = { type: isBoolean ? "boolean" : "string" };
  const { tokens } = parseArgs({
    args: source.argv.map((argument) => (argument === "-h" ? "--help" : argument)),
    options,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const values = new Map<string, string>();
  const errors: string[] = [];
  let help = false;
  for (const token of tokens) {
    if (token.kind === "positional") errors.push(`unexpected argument ${JSON.stringify(token.value)}`);
    if (token.kind !== "option") continue;
    const negated = options[token.name] === undefined && token.name.startsWith("no-");
    const name = negated ? token.name.slice(3) : token.name;
    const option = options[name];
    if (name === "help") {
      help = true;
    } else if (!option || (negated && option.type !== "boolean")) {
      errors.push(`unknown flag ${token.rawName}${suggestion(option ? name : token.name, Object.keys(options))}`);
    } else if (option.type === "boolean") {
      if (negated && token.value !== undefined) errors.push(`--no-${name} takes no value`);
      else values.set(name, negated ? "false" : (token.value ?? "true"));
    } else if (token.value === undefined || (!token.inlineValue && token.value.startsWith("--"))) {
      errors.push(`--${name} needs a value: --${name} <${placeholder(declared, name)}>`);
    } else {
      values.set(name, token.value);
    }
  }
  return { help, values, errors };
}

function suggestion(name: string, names: readonly string[]): string {
  const nearest = nearestName(name, names);
  return nearest === undefined ? "; --help lists all flags" : `; did you mean --${nearest}?`;
}

function placeholder(declared: readonly AnySetting[], flag: string): string {
  return declared.find((one) => one.flag === flag)?.range ?? "value";
}

function helpText(declaration: Declaration, command: string): string {
  const lines = [`Usage: ${command} [flags]`, "", "Each flag has an environment variable; the flag wins.", ""];
  for (const declared of Object.values(declaration)) {
    lines.push(`  --${declared.isBoolean ? "[no-]" : ""}${declared.flag}  ${declared.env}`);
    lines.push(`      ${declared.doc}`);
    lines.push(`      ${declared.range}; default ${defaultOf(declared)}`);
  }
  lines.push("  --help", "      Prints this.", "");
  return lines.join("\n");
}

/** The same list as a Markdown table, for a README. */
export function settingsTable(declaration: Declaration): string {
  const rows = Object.values(declaration).map((declared) => {
    const cells = [`\`--${declared.flag}\``, `\`${declared.env}\``, defaultOf(declared), declared.range, declared.doc];
    return `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  });
  return ["| flag | environment | default | values | meaning |", "|---|---|---|---|---|", ...rows].join("\n");
}

function defaultOf(declared: AnySetting): string {
  if (declared.defaultText === undefined) return "none";
  return declared.secret ? "(hidden)" : declared.defaultText === "" ? "empty" : declared.defaultText;
}
