import { type ChildProcess, spawn } from "node:child_process";
import { closeSync } from "node:fs";
import type { Clock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { type ChildExit, supervise, type Supervised } from "#kernel/supervise.ts";
import type { LogFile } from "./log-file.ts";
import type { ServicePorts } from "./ports.ts";
import { projectRoot } from "./settings.ts";
import { StartError } from "./start-error.ts";

/** Where a service answers, as it told us over IPC. */
export interface ServiceAddress {
  readonly url: string;
  readonly adminUrl: string;
  readonly pid: number;
}

export interface ServiceSpec {
  /** For people and logs, such as "node agent local-1". */
  readonly name: string;
  /** Path of its main, in the project. */
  readonly main: string;
  /** For Node itself. */
  readonly nodeFlags?: readonly string[];
  readonly ports: ServicePorts;
  /** Its flags; ports that were 0 are given by number after the first start, so that a restart keeps them. */
  readonly args: (ports: ServicePorts) => readonly string[];
  readonly log: LogFile;
}

export interface ServiceEvents {
  readonly onReady: () => void;
  /** An exit that nobody asked for; the service is being started again. */
  readonly onExit: (exit: ChildExit) => void;
  /** It failed for good. */
  readonly onGiveUp: (error: StartError) => void;
}

const failuresInARow = 4;
/** Wrong settings, by run-service: starting again changes nothing. */
const settingsExitCode = 2;

/** One service of the mesh as a child process that is started again when it ends. */
export class ServiceProcess {
  readonly spec: ServiceSpec;
  /** Undefined while it is not up. */
  address: ServiceAddress | undefined;
  readonly #events: ServiceEvents;
  readonly #supervised: Supervised;
  readonly #first = Promise.withResolvers<ServiceAddress>();
  #ports: ServicePorts;
  #stopping = false;
  #failed = false;

  constructor(spec: ServiceSpec, clock: Clock, events: ServiceEvents) {
    this.spec = spec;
    this.#ports = spec.ports;
    this.#events = events;
    // Whoever awaits the first address hears of the failure; nobody else must.
    this.#first.promise.catch(() => {});
    this.#supervised = supervise({
      name: spec.name,
      start: () => this.#start(),
      backoff: { initialMs: 250, maxMs: 5_000 },
      clock,
      // What happens is told by the events; the lines of a log would tear the progress apart.
      logger: silentLogger,
      giveUpAfter: failuresInARow,
      onExit: (exit) => this.#onExit(exit),
      onGiveUp: (exit) => this.#giveUp(exit),
    });
  }

  /** Resolves when it was up for the first time; rejects with a StartError when it never will be. */
  get up(): Promise<ServiceAddress> {
    return this.#first.promise;
  }

  get pid(): number | undefined {
    return this.#supervised.child?.pid;
  }

  /** SIGTERM, and SIGKILL when it has not drained after `timeoutMs`. */
  async stop(timeoutMs: number): Promise<void> {
    this.#stopping = true;
    this.#first.reject(new StartError(`The ${this.spec.name} was stopped before it was up.`));
    await this.#supervised.stop("SIGTERM", timeoutMs);
    this.address = undefined;
  }

  /** At once, with everything that it started: a child leads a process group. */
  kill(): void {
    this.#stopping = true;
    const { pid } = this;
    if (pid === undefined) return;
    try {
      process.kill(-pid, "SIGKILL");
    } catch {
      // The group is gone already, which is what was wanted.
    }
  }

  #start(): ChildProcess {
    const output = this.spec.log.open();
    try {
      const { NODE_CHANNEL_FD: _channel, HELIXMESH_READY_FD: _ready, ...env } = process.env;
      const { main, nodeFlags = [], args } = this.spec;
      const child = spawn(process.execPath, [...nodeFlags, main, ...args(this.#ports)], {
        cwd: projectRoot,
        // Its own session: Ctrl-C reaches `up` alone, which stops the services in order.
        detached: true,
        stdio: ["ignore", output, output, "ipc"],
        env,
      });
      child.on("message", (message) => this.#onMessage(child, message));
      return child;
    } finally {
      closeSync(output);
    }
  }

  #onMessage(child: ChildProcess, message: unknown): void {
    const ready = readyMessage(message);
    if (!ready || child.pid === undefined) return;
    this.address = { ...ready, pid: child.pid };
    this.#ports = { port: portOf(ready.url), adminPort: portOf(ready.adminUrl) };
    this.#first.resolve(this.address);
    this.#events.onReady();
  }

  #onExit(exit: ChildExit): void {
    this.address = undefined;
    if (this.#stopping || this.#failed) return;
    if (exit.code === settingsExitCode) {
      this.#giveUp(exit);
      void this.#supervised.stop("SIGTERM", 0);
    } else {
      this.#events.onExit(exit);
    }
  }

  #giveUp(exit: ChildExit): void {
    if (this.#failed || this.#stopping) return;
    this.#failed = true;
    const { name, log } = this.spec;
    const lines = log.lastLines(12).map((line) => `  ${line}`);
    const error = new StartError(
      [`The ${name} ${describeExit(exit)} and does not start again. The end of ${log.path}:`, ...lines].join("\n"),
    );
    this.#first.reject(error);
    this.#events.onGiveUp(error);
  }
}

/** "ended with exit code 1", "was killed by SIGKILL", "could not be started: …". */
export function describeExit(exit: ChildExit): string {
  if (exit.error) return `could not be started: ${exit.error.message}`;
  if (exit.signal !== null) return `was killed by ${exit.signal}`;
  return `ended with exit code ${exit.code ?? "unknown"}`;
}

function readyMessage(message: unknown): { readonly url: string; readonly adminUrl: string } | undefined {
  if (typeof message !== "object" || message === null) return undefined;
  const { type, url, adminUrl } = message as Record<string, unknown>;
  return type === "ready" && typeof url === "string" && typeof adminUrl === "string" ? { url, adminUrl } : undefined;
}

function portOf(url: string): number {
  return Number(new URL(url).port);
}
