import { readFileSync } from "node:fs";
import { chatCommand } from "./chat.ts";
import { type Command, parseInput, UsageError } from "./command.ts";
import { deploymentCommands } from "./deployments.ts";
import { describeFailure } from "./failure.ts";
import { commandHelp, groupHelp, overviewHelp } from "./help.ts";
import { keyCommands } from "./keys.ts";
import { modelCommands } from "./models.ts";
import { nodeCommands } from "./nodes.ts";
import { Session } from "./session.ts";
import type { Terminal } from "./terminal.ts";
import { usageCommands } from "./usage.ts";

export const commands: readonly Command[] = [
  ...modelCommands,
  ...deploymentCommands,
  ...nodeCommands,
  ...keyCommands,
  ...usageCommands,
  chatCommand,
];

const helpWords = new Set(["--help", "-h", "help"]);

/** Runs one command and returns its exit code: 0 done, 1 failed, 2 a mistake in the command line. */
export async function runCli(words: readonly string[], terminal: Terminal): Promise<0 | 1 | 2> {
  let session: Session | undefined;
  try {
    const [first = "--help"] = words;
    if (helpWords.has(first)) {
      terminal.out(overviewHelp(commands));
      return words.length === 0 ? 2 : 0;
    }
    if (first === "--version") {
      terminal.out(`${releasedVersion()}\n`);
      return 0;
    }
    const command = findCommand(words);
    if (!command) return groupOrMistake(words, terminal);
    const input = parseInput(command, words.slice(command.path.length));
    if (input.flag("help")) {
      terminal.out(commandHelp(command));
      return 0;
    }
    session = new Session(input, terminal);
    await command.run(input, session);
    return 0;
  } catch (error) {
    const { message, exitCode } = describeFailure(error, session);
    terminal.err(`helixmesh: ${message}\n`);
    if (exitCode === 2) terminal.err(`See \`${["helixmesh", ...knownGroup(words), "--help"].join(" ")}\`.\n`);
    return exitCode;
  } finally {
    session?.close();
  }
}

function releasedVersion(): string {
  const file: unknown = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  return typeof file === "object" && file !== null && "version" in file ? String(file.version) : "unknown";
}

/** The first word when it is one of ours, whose help then says more than the overview. */
function knownGroup(words: readonly string[]): readonly string[] {
  const first = words.find((word) => !word.startsWith("-"));
  return commands
    .filter((command) => command.path[0] === first)
    .flatMap(({ path }) => path.slice(0, 1))
    .slice(0, 1);
}

/** The command with the longest path that the words begin with: `usage calls` before `usage`. */
function findCommand(words: readonly string[]): Command | undefined {
  return commands
    .filter((command) => command.path.every((word, index) => words[index] === word))
    .reduce<Command | undefined>(
      (best, command) => (command.path.length > (best?.path.length ?? 0) ? command : best),
      undefined,
    );
}

function groupOrMistake(words: readonly string[], terminal: Terminal): 0 | 2 {
  const [name = "", second] = words;
  const group = commands.filter((command) => command.path[0] === name);
  if (group.length === 0) {
    throw new UsageError(`There is no command "${name}". \`helixmesh --help\` lists all commands.`);
  }
  if (second === undefined || helpWords.has(second)) {
    terminal.out(groupHelp(name, group));
    return second === undefined ? 2 : 0;
  }
  throw new UsageError(
    `There is no command "${name} ${second}"; there are ${group.map((c) => c.path.join(" ")).join(", ")}.`,
  );
}
