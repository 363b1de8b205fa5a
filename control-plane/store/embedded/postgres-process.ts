import { readFile, stat } from "node:fs/promises";
import { isAlive, processColumn } from "#kernel/process-identity.ts";

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
  const command = processColumn(pid, "command");
  return command !== undefined && command.includes("postgres") && command.includes(dataDir);
}
