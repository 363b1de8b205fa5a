import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readlinkSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Place, here } from "./hosts.ts";

const main = join(import.meta.dirname, "../router/main.ts");

export interface RouterProcessOptions {
  readonly routerId: string;
  readonly controlUrl: string;
  readonly keyFile: string;
  readonly flags?: readonly string[];
  readonly place?: Place;
}

/** A router as a process that can be killed and started again on its port. */
export class RouterProcess {
  /** Process ids of its workers, as its log names them, in the order in which they came up. */
  readonly workerPids: number[] = [];
  readonly #options: RouterProcessOptions;
  readonly #dir: string;
  readonly #place: Place;
  #child: ChildProcess;
  #port = 0;
  #adminUrl = "";

  private constructor(options: RouterProcessOptions, dir: string) {
    this.#options = options;
    this.#dir = dir;
    this.#place = options.place ?? here;
    this.#child = this.#spawn();
  }

  static async start(options: RouterProcessOptions): Promise<RouterProcess> {
    const router = new RouterProcess(options, await mkdtemp(join(tmpdir(), "helixmesh-router-")));
    await router.#ready();
    return router;
  }

  get url(): string {
    return `http://${this.#place.address}:${this.#port}`;
  }

  /** As a process that dies: its sockets are closed. */
  kill(): void {
    this.#child.kill("SIGKILL");
  }

  /** As a host that vanishes: its sockets stay open, and nothing answers. */
  pause(): void {
    this.#child.kill("SIGSTOP");
  }

  /** The host is back. */
  unpause(): void {
    this.#child.kill("SIGCONT");
  }

  /** Once it has been killed. */
  async restart(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, "exit");
    this.#child = this.#spawn();
    await this.#ready();
  }

  /** Process id of the worker that has most connections; Linux only. */
  busiestWorker(): number {
    const sockets = (pid: number): number =>
      readdirSync(`/proc/${pid}/fd`).filter((fd) => linkOf(`/proc/${pid}/fd/${fd}`).startsWith("socket:")).length;
    return this.workerPids.reduce((most, pid) => (sockets(pid) > sockets(most) ? pid : most));
  }

  async metrics(): Promise<string> {
    return (await fetch(`${this.#adminUrl}/metrics`)).text();
  }

  async close(): Promise<void> {
    const exited = once(this.#child, "exit");
    const isOver = this.#child.exitCode !== null || this.#child.signalCode !== null;
    this.unpause();
    this.#child.kill("SIGTERM");
    if (!isOver) await exited;
    await rm(this.#dir, { recursive: true, force: true });
  }

  #spawn(): ChildProcess {
    const { routerId, controlUrl, keyFile, flags = [] } = this.#options;
    const args = [
      `--host=${this.#place.address}`,
      `--port=${this.#port}`,
      `--admin-host=${this.#place.address}`,
      "--admin-port=0",
      `--control-url=${controlUrl}`,
      `--key-file=${keyFile}`,
      `--state-dir=${this.#dir}`,
      `--router-id=${routerId}`,
      "--drain-timeout=1000",
      "--usage-flush-timeout=200",
    ];
    const [program = "", ...programArgs] = [...this.#place.command, process.execPath, main, ...args, ...flags];
    const child = spawn(program, programArgs, { stdio: ["ignore", "ignore", "pipe", "ipc"] });
    let rest = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const pid = /"workerPid":([0-9]+)/.exec(line)?.[1];
        if (pid !== undefined) this.workerPids.push(Number(pid));
      }
    });
    return child;
  }

  async #ready(): Promise<void> {
    const [ready] = (await Promise.race([
      once(this.#child, "message"),
      once(this.#child, "exit").then(() => {
        throw new Error(`The router ${this.#options.routerId} did not start.`);
      }),
    ])) as [{ readonly url: string; readonly adminUrl: string }];
    this.#port = Number(new URL(ready.url).port);
    this.#adminUrl = ready.adminUrl;
    while (!(await fetch(`${ready.adminUrl}/readyz`)).ok) await sleep(20);
  }
}

/** Empty for a descriptor that was closed meanwhile. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}
