import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");

export interface RunFile {
  readonly router: { readonly url: string; readonly adminUrl: string; readonly pid: number };
  readonly controlPlane: { readonly url: string; readonly adminUrl: string; readonly pid: number };
  readonly nodeAgents: readonly { readonly url: string; readonly adminUrl: string; readonly pid: number }[];
  readonly keyFile: string;
}

export interface Mesh {
  readonly run: RunFile;
  readonly key: string;
  readonly stateDir: string;
  /** The process that supervises all others; the root of the process tree. */
  readonly pid: number;
  stop(): Promise<number | null>;
}

/** Starts a whole mesh, as `npm start` does, on free ports with a state folder of its own. */
export async function startMesh(flags: readonly string[] = []): Promise<Mesh> {
  const stateDir = await mkdtemp(join(tmpdir(), "helixmesh-bench-"));
  const ports = ["--router-port", "0", "--control-port", "0", "--agent-port", "0", "--admin-port-base", "0"];
  const child = spawn(process.execPath, [join(root, "helixmesh.mjs"), "up", "--state", stateDir, ...ports, ...flags], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  const keep = (chunk: Buffer): void => void (output = (output + chunk.toString()).slice(-20_000));
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  const run = await answered(child, stateDir, () => output);
  return {
    run,
    key: (await readFile(run.keyFile, "utf8")).trim(),
    stateDir,
    pid: child.pid ?? 0,
    async stop() {
      const code = await ended(child);
      await rm(stateDir, { recursive: true, force: true });
      return code;
    },
  };
}

/** Waits until the model answers a real question. */
async function answered(child: ChildProcess, stateDir: string, output: () => string): Promise<RunFile> {
  const untilMs = Date.now() + 120_000;
  while (Date.now() < untilMs) {
    if (child.exitCode !== null) break;
    try {
      const run = JSON.parse(await readFile(join(stateDir, "run.json"), "utf8")) as RunFile;
      const key = (await readFile(run.keyFile, "utf8")).trim();
      const response = await fetch(`${run.router.url}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
        body: JSON.stringify({ model: "pocket", max_tokens: 4, messages: [{ role: "user", content: "Hello" }] }),
      });
      if (response.ok) return run;
    } catch {
      // Not up yet: the state folder fills, then the router listens.
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  child.kill("SIGKILL");
  throw new Error(`The mesh did not start (exit code ${child.exitCode}). Its last words:\n${output()}`);
}

export async function ended(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode;
  const exit = new Promise<number | null>((resolve) => child.once("exit", (code) => resolve(code)));
  child.kill("SIGINT");
  const timer = setTimeout(() => child.kill("SIGKILL"), 60_000);
  const code = await exit;
  clearTimeout(timer);
  return code;
}
