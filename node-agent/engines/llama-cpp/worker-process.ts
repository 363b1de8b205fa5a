import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Logger } from "#kernel/log.ts";
import type { FromWorker, ToWorker } from "./messages.ts";

export interface WorkerEvents {
  onMessage(message: FromWorker): void;
  /** Once, however it ended; `why` such as "exit code 1" or "signal SIGSEGV". */
  onExit(why: string, lastOutput: string): void;
}

const longestOutput = 4_096;

/** The child process, its pipes and its end. It is started once; who wants another one makes another one. */
export class WorkerProcess {
  readonly #child: ChildProcess;
  readonly exited: Promise<void>;
  /** What it printed last, for the log line about its end. */
  #lastOutput = "";
  #killedFor: string | undefined;

  constructor(poolThreads: number, logger: Logger, events: WorkerEvents) {
    this.#child = fork(fileURLToPath(new URL("./worker.ts", import.meta.url)), [], {
      serialization: "advanced",
      // The binding works in libuv's pool; one thread there keeps what is queued in order (see DecodeLoop).
      env: { ...process.env, UV_THREADPOOL_SIZE: String(poolThreads) },
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      // Flags of the agent's own process, such as an inspector's port, are not for its children.
      execArgv: [],
    });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.#lastOutput = (this.#lastOutput + text).slice(-longestOutput);
        logger.debug("llama.cpp", { output: text.trimEnd() });
      });
    }
    this.#child.on("message", (message) => events.onMessage(message as FromWorker));
    this.exited = new Promise((resolve) => {
      let over = false;
      const end = (why: string): void => {
        if (over) return;
        over = true;
        events.onExit(why, this.#lastOutput);
        resolve();
      };
      this.#child.once("exit", (code, signal) => {
        end(this.#killedFor ?? (signal === null ? `exit code ${code}` : `signal ${signal}`));
      });
      this.#child.once("error", (error) => end(error.message));
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** What cannot be delivered needs no error: the exit that follows ends everything that waits. */
  send(message: ToWorker): void {
    if (this.#child.connected) this.#child.send(message, () => undefined);
  }

  /** `why` is what `onExit` will be told. */
  kill(why: string): void {
    this.#killedFor = why;
    this.#child.kill("SIGKILL");
  }
}
