import { type Command, globalOptions, type Option } from "./command.ts";

const intro = `Helixmesh: one endpoint over many GPU hosts.

Usage: helixmesh COMMAND [ARGUMENTS] [--help]
`;

const programs: readonly (readonly [string, string])[] = [
  ["up", "Run a whole mesh on this machine (npm start)."],
  ["router", "Run a router: takes calls and relays tokens."],
  ["node-agent", "Run a node agent: loads models beside the engines of this host."],
  ["control-plane", "Run the control plane: registry, placement, keys, usage."],
];

const exitCodes = "Exit codes: 0 done, 1 failed, 2 a mistake in the command line.\n";

/** What `helixmesh --help` prints. */
export function overviewHelp(commands: readonly Command[]): string {
  const operate = commands.map((command) => [signature(command), command.summary] as const);
  return [
    intro,
    "Run:",
    ...columns(programs),
    "",
    "Operate and use:",
    ...columns(operate),
    "",
    "Every command has --help; those that operate have --json. --version prints the version.",
    exitCodes,
  ].join("\n");
}

/** What `helixmesh models --help` prints. */
export function groupHelp(name: string, commands: readonly Command[]): string {
  const rows = commands.map((command) => [signature(command), command.summary] as const);
  return [`Usage: helixmesh ${name} COMMAND [ARGUMENTS] [--help]`, "", ...columns(rows), "", exitCodes].join("\n");
}

/** What `helixmesh models create --help` prints. */
export function commandHelp(command: Command): string {
  const lines = [`Usage: helixmesh ${signature(command)} [OPTIONS]`, "", command.summary, ""];
  const positionals = command.positionals ?? [];
  if (positionals.length > 0)
    lines.push("Arguments:", ...columns(positionals.map((p) => [p.name, p.doc] as const)), "");
  const own = command.options ?? [];
  if (own.length > 0) lines.push("Options:", ...columns(own.map(optionRow)), "");
  lines.push(
    "Options of every command (a flag beats its environment variable):",
    ...columns(globalOptions.map(optionRow)),
  );
  lines.push("", exitCodes);
  return lines.join("\n");
}

function signature(command: Command): string {
  const words = (command.positionals ?? []).map((p) => {
    const name = p.rest ? `${p.name}…` : p.name;
    return p.optional ? `[${name}]` : name;
  });
  return [...command.path, ...words].join(" ");
}

function optionRow(option: Option): readonly [string, string] {
  const notes = [option.required ? "Required." : "", option.multiple ? "May be given several times." : ""];
  const flag = option.value === undefined ? `--${option.name}` : `--${option.name} ${option.value}`;
  return [flag, [option.doc, ...notes.filter((note) => note !== "")].join(" ")];
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`);
}
