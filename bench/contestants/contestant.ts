import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, openSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { rm } from "node:fs/promises";
import { proxyCore } from "../bed/cores.ts";
import { ended } from "../mesh.ts";

/** A proxy between clients and engines, or none. */
export interface Contestant {
  readonly name: string;
  /** Generate over HTTP/2; undefined where it speaks no gRPC. */
  readonly grpcPort?: number;
  /** Chat completions over HTTP/1.1. */
  readonly openAiPort: number;
  readonly key: string;
  /** False: it answers whole chat completions only. */
  readonly streams?: boolean;
  readonly headers?: Readonly<Record<string, string>>;
  /** Root of its process tree; 0 when there is no process. */
  readonly pid: number;
  readonly stop: () => Promise<void>;
}

/** A folder of its own for one run of a program. */
export function runFolder(name: string): string {
  return mkdtempSync(join(tmpdir(), `helixmesh-bench-${name}-`));
}

export interface Program {
  readonly pid: number;
  readonly child: ChildProcess;
  readonly stop: () => Promise<void>;
}

/** Starts a program on the proxy's core; what it prints goes to `log` in its folder, as a service manager would have it. */
export function startProgram(
  path: string,
  flags: readonly string[],
  folder: string,
  options: { readonly env?: Readonly<Record<string, string>>; readonly ipc?: boolean } = {},
): Program {
  const log = openSync(join(folder, "log"), "a");
  const stdio = ["ignore", log, log, ...(options.ipc ? (["ipc"] as const) : [])] as const;
  const env = { ...process.env, ...options.env };
  const child = spawn("taskset", ["-c", proxyCore, path, ...flags], { stdio: [...stdio], env, cwd: folder });
  // A benchmark that is stopped or fails leaves nothing running.
  const kill = (): void => void child.kill("SIGTERM");
  process.once("exit", kill);
  return {
    pid: child.pid ?? 0,
    child,
    async stop() {
      process.off("exit", kill);
      await ended(child);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** @throws Error with the program's folder, where its log is, when nothing listens on the port in time */
export async function listening(port: number, program: Program, folder: string, timeoutMs = 30_000): Promise<void> {
  const untilMs = Date.now() + timeoutMs;
  while (Date.now() < untilMs && program.child.exitCode === null) {
    if (await accepts(port)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await ended(program.child);
  throw new Error(`Nothing listens on port ${port}; the program's words are in ${join(folder, "log")}.`);
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}
