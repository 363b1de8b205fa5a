#!/usr/bin/env node
// The one command. Plain JavaScript that any Node from 18 on can run: when the running Node is older than the mesh
// needs, it starts itself again with the Node that the install brought (node_modules/node-<platform>-<arch>), for a router
// with Node's own flags for it (kernel/node-flags.ts), and otherwise imports the command right here. It knows the names of
// the commands and nothing else of them.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(fileURLToPath(import.meta.url));
const neededMajor = 24;

/** Programs with a main of their own; every other word is a command of the operator's CLI. */
const programs = {
  up: "deploy/local/main.ts",
  router: "router/main.ts",
  "node-agent": "node-agent/main.ts",
  "control-plane": "control-plane/main.ts",
};

/** By program. */
const nodeFlags = {
  router: ["--min-semi-space-size=64", "--max-semi-space-size=64", "--no-allocation-site-pretenuring"],
};

const wantedFlags = (Object.hasOwn(nodeFlags, process.argv[2] ?? "") && nodeFlags[process.argv[2]]) || [];
if (Number.parseInt(process.versions.node, 10) < neededMajor) runAgain(packagedNode());
else if (wantedFlags.some((flag) => !process.execArgv.includes(flag))) runAgain(process.execPath);
else await runHere();

async function runHere() {
  if (!existsSync(join(root, "node_modules", "@bufbuild", "protobuf"))) {
    fail(
      "The dependencies are not installed. Run `npm start`, which installs them, or `npm install --ignore-scripts`.",
    );
  }
  const [name = "", ...rest] = process.argv.slice(2);
  const program = Object.hasOwn(programs, name) ? programs[name] : undefined;
  const path = join(root, program ?? "control-plane/cli/main.ts");
  // The program sees the arguments it would see if it had been started by itself.
  process.argv = [process.execPath, path, ...(program ? rest : process.argv.slice(2))];
  await import(pathToFileURL(path).href);
}

function packagedNode() {
  const packaged = join(root, "node_modules", `node-${process.platform}-${process.arch}`, "bin", "node");
  if (!existsSync(packaged)) {
    fail(
      `Node ${process.versions.node} is too old: Helixmesh needs Node ${neededMajor} or newer. Run \`npm start\`, which ` +
        `installs one inside this folder, or install Node ${neededMajor} (https://nodejs.org).`,
    );
  }
  return packaged;
}

function runAgain(node) {
  // The IPC channel has no messages: the child sees it close, and ends, when this process is killed.
  const child = spawn(node, [...wantedFlags, fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
    stdio: ["inherit", "inherit", "inherit", "ipc"],
  });
  const forward = (signal) => {
    // A terminal sends Ctrl-C to the child as well, and a second one would not wait for its drain.
    if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, forward);
  child.on("error", (error) =>
    fail(`${node} does not start: ${error.message}. Delete node_modules and install again.`),
  );
  child.on("exit", (code, signal) => {
    process.exit(signal ? 128 + (constants.signals[signal] ?? 0) : (code ?? 1));
  });
}

function fail(message) {
  process.stderr.write(`helixmesh: ${message}\n`);
  process.exit(1);
}
