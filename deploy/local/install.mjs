// Makes node_modules match package-lock.json before anything else runs: `npm start` and `npm test` call it on a fresh
// clone, where no dependency and perhaps no current Node exists. Plain JavaScript for Node 18, no dependencies.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, realpathSync, statfsSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const modules = join(root, "node_modules");
const marker = join(modules, ".helixmesh-installed");
/** What the install takes on disk, with room for npm's own cache. */
const neededMegabytes = 1_200;

/** Installs when dependencies are missing or stale; returns at once when they are not. Ends the process on failure. */
export async function ensureInstalled() {
  const wanted = fingerprint();
  if (readIfThere(marker) === wanted && existsSync(join(modules, ".package-lock.json"))) return;
  checkDisk();
  const result = await npmInstall();
  if (result.code !== 0) fail(result);
  writeFileSync(marker, wanted);
}

/** The lock file decides what is installed, the platform which optional packages of it. */
function fingerprint() {
  const hash = createHash("sha256").update(readFileSync(join(root, "package-lock.json")));
  return `${hash.digest("hex")} ${process.platform}-${process.arch}\n`;
}

function readIfThere(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // Not there yet, which is what a fresh clone looks like.
  }
}

function checkDisk() {
  if (typeof statfsSync !== "function") return; // Node before 18.15 cannot tell; npm will.
  const { bavail, bsize } = statfsSync(root);
  const freeMegabytes = Math.floor((Number(bavail) * Number(bsize)) / 1e6);
  if (freeMegabytes < neededMegabytes && !existsSync(modules)) {
    end(
      `Only ${freeMegabytes} MB are free where ${root} lies; the install needs ${neededMegabytes} MB. Free some space.`,
    );
  }
}

/** Runs npm with a line of progress; npm itself says nothing for a minute where there is no terminal. */
function npmInstall() {
  const npm = process.env.npm_execpath;
  const [command, ...before] = npm && /\.c?js$/.test(npm) ? [process.execPath, npm] : [npm ?? "npm"];
  // --no-save: an install must never rewrite the lock file that it is measured by.
  const args = [
    "install",
    "--no-save",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--loglevel=http",
    "--color=false",
  ];
  const total = packagesForThisPlatform();
  const started = Date.now();
  let fetched = 0;
  const lastLines = [];

  return new Promise((resolve) => {
    const child = spawn(command, [...before, ...args], { cwd: root, stdio: ["ignore", "ignore", "pipe"] });
    const progress = showProgress(() => {
      const seconds = Math.round((Date.now() - started) / 1_000);
      const packages = fetched === 0 ? "resolving" : `${Math.min(fetched, total)} of about ${total} packages fetched`;
      return `Installing dependencies: ${packages}, ${seconds} s`;
    });
    let rest = "";
    child.stderr.setEncoding("utf8");
    child.stderr.on("data", (text) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (/^npm http (fetch|cache)/.test(line)) fetched += /\.tgz/.test(line) ? 1 : 0;
        else if (line.trim() !== "" && lastLines.push(line) > 20) lastLines.shift();
      }
    });
    child.on("error", (error) => {
      progress.stop();
      resolve({ code: 1, lines: [`${command} does not start: ${error.message}`] });
    });
    child.on("close", (code) => {
      progress.stop();
      if (code === 0)
        process.stderr.write(`Installed dependencies in ${Math.round((Date.now() - started) / 1_000)} s.\n`);
      resolve({ code: code ?? 1, lines: lastLines });
    });
  });
}

function packagesForThisPlatform() {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  const fits = (list, value) => !list || [list].flat().includes(value);
  const all = Object.entries(lock.packages ?? {});
  return all.filter(([path, p]) => path !== "" && fits(p.os, process.platform) && fits(p.cpu, process.arch)).length;
}

/** One line that rewrites itself on a terminal, a line every five seconds elsewhere. */
function showProgress(text) {
  const terminal = process.stderr.isTTY === true;
  const draw = () => process.stderr.write(terminal ? `\r\x1b[K${text()}` : `${text()}\n`);
  draw();
  const timer = setInterval(draw, terminal ? 200 : 5_000);
  return {
    stop() {
      clearInterval(timer);
      if (terminal) process.stderr.write("\r\x1b[K");
    },
  };
}

function fail({ code, lines }) {
  const text = lines.join("\n");
  const advice = /ENOSPC/.test(text)
    ? "The disk is full: free some space and try again."
    : /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|network/i.test(text)
      ? "npm does not reach its registry: check the network, or point npm at a mirror with `npm config set registry URL`."
      : /EACCES|EPERM|EROFS/.test(text)
        ? `npm may not write to ${root}: check who owns it.`
        : "Try `npm install --ignore-scripts` by hand to see all of npm's output.";
  end(`${text}\nnpm install ended with ${code}. ${advice}`);
}

function end(message) {
  process.stderr.write(`helixmesh: ${message}\n`);
  process.exit(1);
}

// Node names this module by its real path, the command line perhaps by a link to it.
if (realpathSync(process.argv[1] ?? ".") === fileURLToPath(import.meta.url)) await ensureInstalled();
