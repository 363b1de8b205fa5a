import type { Readable } from "node:stream";
import type { Clock } from "#kernel/clock.ts";

/** Everything of the outer world that a command may touch; tests bring their own. */
export interface Terminal {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly clock: Clock;
  readonly stdin: Readable & { readonly isTTY?: boolean };
  /** Someone looks at stdout. */
  readonly interactive: boolean;
  out(text: string): void;
  err(text: string): void;
  /** Calls back at each Ctrl-C until the returned function is called. */
  onInterrupt(callback: () => void): () => void;
}

export function processTerminal(clock: Clock): Terminal {
  return {
    env: process.env,
    clock,
    stdin: process.stdin,
    interactive: process.stdout.isTTY,
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    onInterrupt(callback) {
      process.on("SIGINT", callback);
      return () => void process.off("SIGINT", callback);
    },
  };
}
