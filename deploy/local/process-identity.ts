import { readFileSync } from "node:fs";
import { systemErrorCode } from "./start-error.ts";

/** A process that can be told from a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Its start time in the kernel's ticks on Linux; empty where it cannot be known. */
  readonly started: string;
}

/** Undefined when no such process lives (a zombie does not). */
export function identify(pid: number): ProcessIdentity | undefined {
  if (!isAlive(pid)) return undefined;
  if (process.platform !== "linux") return { pid, started: "" };
  try {
    // proc_pid_stat(5): the name in parentheses may hold anything; state is field 3 and start time field 22.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    return fields[0] === "Z" ? undefined : { pid, started: fields[19] ?? "" };
  } catch {
    return undefined; // It ended between the two looks.
  }
}

/** Whether the process that was identified still runs. */
export function stillRuns(identity: ProcessIdentity): boolean {
  return identify(identity.pid)?.started === identity.started;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemErrorCode(error) === "EPERM"; // It lives, and is somebody else's.
  }
}
