import { execFile } from "node:child_process";
import { readFile, stat } from "node:fs/promises";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Text that is equal only for the same process: process ids are reused. Undefined when no such process exists. */
export async function processIdentity(pid: number): Promise<string | undefined> {
  if (!isAlive(pid)) return undefined;
  if (process.platform === "linux") {
    try {
      const [line, bootId] = await Promise.all([
        readFile(`/proc/${pid}/stat`, "utf8"),
        readFile("/proc/sys/kernel/random/boot_id", "utf8"),
      ]);
      // proc(5): field 22 is the start time; the name in field 2 may hold spaces and ends at the last parenthesis.
      const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
      if (fields[0] === "Z") return undefined;
      return `${bootId.trim()}/${fields[19]}`;
    } catch {
      // It ended in this moment, or /proc hides it; the second is settled below.
      if (!isAlive(pid)) return undefined;
    }
  }
  return (await ps("lstart", pid)) ?? "unknown";
}

/** Whether `pid` is a PostgreSQL server whose data folder is `dataDir`. */
export async function isPostgresOf(pid: number, dataDir: string): Promise<boolean> {
  if (!isAlive(pid)) return false;
  if (process.platform === "linux") {
    try {
      // The server's working folder is its data folder, by whatever path it was told of it.
      const [name, cwd, data] = await Promise.all([
        readFile(`/proc/${pid}/comm`, "utf8"),
        stat(`/proc/${pid}/cwd`),
        stat(dataDir),
      ]);
      return name.startsWith("postgres") && cwd.ino === data.ino && cwd.dev === data.dev;
    } catch {
      // Ended in this moment, or another user's: in neither case a server of ours.
      return false;
    }
  }
  const command = await ps("command", pid);
  return command !== undefined && command.includes("postgres") && command.includes(dataDir);
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

async function ps(column: string, pid: number): Promise<string | undefined> {
  try {
    const { stdout } = await run("ps", ["-o", `${column}=`, "-p", String(pid)]);
    return stdout.trim() || undefined;
  } catch {
    // ps exits with 1 when there is no such process, and is missing from some containers.
    return undefined;
  }
}
