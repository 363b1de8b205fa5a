import { systemClock } from "#kernel/clock.ts";
import { runCli } from "./cli.ts";
import { processTerminal } from "./terminal.ts";

// `helixmesh … | head` closes our output early; that is no failure of ours.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));

process.exitCode = await runCli(process.argv.slice(2), processTerminal(systemClock));
