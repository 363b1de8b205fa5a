import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** A process that can be told from a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Boot id and start time on Linux, the start time elsewhere; empty where it cannot be known. */
  readonly started: string;
}

/** Undefined when no such process lives (a zombie does not). */
export function identify(pid: number): ProcessIdentity | undefined {
  if (!isAlive(pid)) return undefined;
  if (process.platform !== "linux") return { pid, started: processColumn(pid, "lstart") ?? "" };
  try {
    const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    // proc_pid_stat(5): the name in parentheses may hold anything; state is field 3 and start time field 22.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    return fields[0] === "Z" ? undefined : { pid, started: `${bootId}/${fields[19] ?? ""}` };
  } catch {
    // It ended between the two looks, or /proc hides what belongs to others.
    return isAlive(pid) ? { pid, started: "" } : undefined;
  }
}

/** Whether the process that was identified still runs; one whose start cannot be known is taken for it. */
export function stillRuns(identity: ProcessIdentity): boolean {
  const now = identify(identity.pid);
  return now !== undefined && (now.started === identity.started || now.started === "");
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // It lives, and is somebody else's.
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

/** One column of `ps`, where there is no /proc. */
export function processColumn(pid: number, column: "lstart" | "command"): string | undefined {
  try {
    const text = execFileSync("ps", ["-o", `${column}=`, "-p", String(pid)], { encoding: "utf8", stdio: "pipe" });
    return text.trim() || undefined;
  } catch {
    // ps exits with 1 when there is no such process, and is missing from some containers.
    return undefined;
  }
}
