// `npm run check`: everything about the source that needs no running mesh. Each step says what it is, and how to mend it.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const sources = ["kernel", "router", "node-agent", "control-plane", "deploy", "bench", "vitest.config.ts"];

/** Runs a program of node_modules/.bin (npm puts it on the path); returns its output, or throws with it. */
function run(program, ...args) {
  try {
    return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], maxBuffer: 64 << 20 });
  } catch (error) {
    throw new Error(
      `${program} ${args.join(" ")}\n${error.stdout ?? ""}${error.stderr ?? ""}${error.stdout === undefined ? error.message : ""}`,
    );
  }
}

/** A checker that cannot fail checks nothing: this one must report the fault that .ci/planted holds. */
function mustReport(expected, program, ...args) {
  let output;
  try {
    output = run(program, ...args);
  } catch (error) {
    if (error.message.includes(expected)) return;
    throw new Error(`${program} failed on .ci/planted, but not with "${expected}":\n${error.message}`);
  }
  throw new Error(`${program} did not report the planted fault "${expected}":\n${output}`);
}

/** The commit whose contracts must stay compatible: where this branch left main, or main's commit before this one. */
function baseCommit() {
  const head = run("git", "rev-parse", "HEAD").trim();
  for (const ref of ["origin/main", "main"]) {
    try {
      const base = run("git", "merge-base", "HEAD", ref).trim();
      if (base !== head) return base;
    } catch {
      // This clone has no such branch; the next candidate, or the parent commit, serves.
    }
  }
  const parents = run("git", "rev-list", "--parents", "-n", "1", "HEAD").trim().split(" ").slice(1);
  return parents[0];
}

const steps = [
  ["contracts: lint (buf STANDARD + COMMENTS)", () => run("buf", "lint")],
  [
    "contracts: no breaking change",
    () => {
      const base = baseCommit();
      if (base === undefined || run("git", "ls-tree", base, "buf.yaml").trim() === "") return "no earlier contracts";
      run("buf", "breaking", "--against", `.git#ref=${base}`);
      return `against ${base.slice(0, 10)}`;
    },
  ],
  [
    "generated code is fresh (mend: npm run generate)",
    () => {
      const folder = mkdtempSync(join(tmpdir(), "helixmesh-gen-"));
      try {
        run("buf", "generate", "--output", folder);
        run("diff", "-r", join(folder, "gen"), "gen");
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
  ],
  ["format (mend: npm run format)", () => run("oxfmt", "--check", ".")],
  ["types and service boundaries", () => run("tsc", "-b")],
  ["lint, type-aware", () => run("oxlint", "--type-aware", ...sources)],
  [
    "the planted faults are caught",
    () => {
      mustReport("TS6307", "tsc", "-b", ".ci/planted");
      mustReport("no-floating-promises", "oxlint", "--type-aware", ".ci/planted");
      mustReport("no-restricted-properties", "oxlint", "--type-aware", ".ci/planted");
    },
  ],
  ["no dead code, no unused or missing dependency", () => run("knip")],
];

let failed = 0;
for (const [name, step] of steps) {
  try {
    const note = step();
    console.log(
      `ok    ${name}${typeof note === "string" && note.length < 80 && note.trim() !== "" ? ` (${note.trim()})` : ""}`,
    );
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}\n${error.message.trim().replace(/^/gm, "      ")}`);
  }
}
console.log(failed === 0 ? "check: all good" : `check: ${failed} of ${steps.length} steps failed`);
process.exitCode = failed === 0 ? 0 : 1;
