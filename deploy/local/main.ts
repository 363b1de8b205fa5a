import { systemClock } from "#kernel/clock.ts";
import { loadSettings } from "#kernel/settings.ts";
import { watchStopSignals } from "#kernel/stop-signals.ts";
import { Progress } from "./progress.ts";
import { upSettings } from "./settings.ts";
import { up } from "./up.ts";

const intro = `Runs a whole mesh on this machine: control plane with its database, router, node agents, and a small
model that answers. Waits until it does, prints what runs where and what to paste, and runs until Ctrl-C.

`;

const loaded = loadSettings(upSettings, { argv: process.argv.slice(2), env: process.env, command: "helixmesh up" });
switch (loaded.kind) {
  case "help":
    process.stdout.write(intro + loaded.text);
    break;
  case "errors":
    process.stderr.write(`helixmesh up: ${loaded.errors.join("\nhelixmesh up: ")}\nSee \`helixmesh up --help\`.\n`);
    process.exitCode = 2;
    break;
  case "settings": {
    // Whoever reads our output may go away before we do.
    for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
    const terminal = process.stderr.isTTY;
    const code = await up(loaded.settings, {
      clock: systemClock,
      signals: watchStopSignals(process, systemClock),
      progress: new Progress({ clock: systemClock, write: (text) => void process.stderr.write(text), terminal }),
      out: (text) => void process.stdout.write(text),
      color: process.stdout.isTTY && !process.env["NO_COLOR"],
    });
    process.exit(code);
  }
}
