import type { Readable } from "node:stream";
import { createInterface } from "node:readline";
import type { Logger } from "#kernel/log.ts";

/** Reads the server's stderr (log_line_prefix is empty), passes it on to our log and keeps the end for an explanation. */
export interface ServerLog {
  /** Follows one process's stderr; a restarted one is followed anew. */
  follow(stderr: Readable): void;
  /** The last lines, oldest first. */
  tail(): readonly string[];
  clear(): void;
}

const keptLines = 60;
export const readyLine = "database system is ready to accept connections";

export function createServerLog(logger: Logger, onLine: (line: string) => void = () => {}): ServerLog {
  const lines: string[] = [];
  return {
    follow(stderr) {
      createInterface({ input: stderr }).on("line", (line) => {
        lines.push(line);
        if (lines.length > keptLines) lines.shift();
        passOn(line, logger);
        onLine(line);
      });
    },
    tail: () => lines,
    clear: () => void lines.splice(0),
  };
}

function passOn(line: string, logger: Logger): void {
  const [, severity = "", text = line] = /^([A-Z]+\d?): {2}(.*)$/.exec(line) ?? [];
  switch (severity) {
    case "PANIC":
    case "FATAL":
    case "ERROR":
    case "WARNING":
      return logger.warn("postgres", { severity, text });
    default:
      if (/automatic recovery in progress|redo (starts|done)/.test(text)) return logger.info("postgres", { text });
      return logger.debug("postgres", { severity, text });
  }
}

/** What went wrong and what to do, from what `initdb` or `postgres` wrote before it ended. */
export function explainFailure(lines: readonly string[], dataDir: string): string {
  const text = lines.join("\n");
  const last =
    lines.findLast((line) => /^(PANIC|FATAL|ERROR): |error:/.test(line)) ?? lines.at(-1) ?? "it wrote nothing";
  const said = last.replace(/^[A-Z]+: +/, "");
  if (/No space left on device|Disk quota exceeded/i.test(text)) {
    return `The disk that holds ${dataDir} is full (${said}). Free some space and start again; nothing committed is lost.`;
  }
  if (/database files are incompatible|initialized by PostgreSQL version/.test(text)) {
    return `${dataDir} was made by another PostgreSQL version (${said}). Use the Helixmesh that made it, or move the folder away to start empty.`;
  }
  if (/data directory .* has (wrong ownership|invalid permissions)|Permission denied/.test(text)) {
    return `PostgreSQL may not use ${dataDir} (${said}). Give the folder back to the user that made it, with mode 0700.`;
  }
  if (
    /shared memory|semaphores|could not create (shared|semaphores)/i.test(text) &&
    /No space|Cannot allocate|limit/i.test(text)
  ) {
    return `The system gave PostgreSQL no shared memory (${said}). Raise the limits of shared memory (in a container: --shm-size).`;
  }
  if (/could not look up effective user/i.test(text)) {
    return `This process's user is not in /etc/passwd (${said}). Run as a user that is, or point DATABASE_URL at a PostgreSQL server.`;
  }
  if (/PANIC|could not (locate|read|open|find)|invalid|corrupt|missing|is not a (valid )?data/i.test(text)) {
    return `The data in ${dataDir} is damaged (${said}). Restore it from a backup, or move the folder away to start empty.`;
  }
  return `PostgreSQL did not start in ${dataDir}: ${said}`;
}
