import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { ended } from "../mesh.ts";

interface Reply {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

/** A process of the test bed, asked by message: one answer a question. */
export class BedProcess {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #nextId = 1;

  /** `script` lies in bench/; it runs on `cores` (a list as taskset takes it). */
  constructor(script: string, cores: string) {
    const path = join(import.meta.dirname, "..", script);
    const stdio = ["ignore", "inherit", "inherit", "ipc"] as const;
    this.#child = spawn("taskset", ["-c", cores, process.execPath, path], { stdio: [...stdio] });
    this.#child.on("message", ({ id, value, error }: Reply) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) waiting?.resolve(value);
      else waiting?.reject(new Error(error));
    });
    this.#child.on("exit", (code) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`bench/${script} ended with ${code}.`));
    });
  }

  /** The answer's type is the asker's claim: both ends are files of this folder. */
  ask<T>(question: string, value: unknown = {}): Promise<T> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiting.set(id, { resolve: (answer) => resolve(answer as T), reject });
      this.#child.send({ id, question, value });
    });
  }

  async stop(): Promise<void> {
    await ended(this.#child);
  }
}

/** In the process itself: answers until the parent stops it or is gone. */
export async function serveParent(handlers: Readonly<Record<string, (value: never) => unknown>>): Promise<void> {
  process.on("message", ({ id, question, value }: { id: number; question: string; value: never }) => {
    void (async () => {
      try {
        const handler = handlers[question];
        if (handler === undefined) throw new Error(`There is no question "${question}".`);
        process.send?.({ id, value: (await handler(value)) ?? null });
      } catch (error) {
        process.send?.({ id, error: error instanceof Error ? error.message : String(error) });
      }
    })();
  });
  process.once("SIGINT", () => process.exit(0));
  await once(process, "disconnect");
  process.exit(0);
}
