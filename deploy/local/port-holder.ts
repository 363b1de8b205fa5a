import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";

/** Who listens on a TCP port, such as "nginx (pid 812)"; undefined where that cannot be found out. Linux only. */
export function portHolder(port: number): string | undefined {
  try {
    const inode = listeningInode(port);
    const pid = inode === undefined ? undefined : processWithSocket(inode);
    if (pid === undefined) return undefined;
    return `${programName(pid)} (pid ${pid})`;
  } catch {
    return undefined; // No /proc, or the process just ended: the error is as good without a name.
  }
}

/** Of the command line: the kernel's own name is the main thread's, which every Node process calls "MainThread". */
function programName(pid: string): string {
  const [program = "", ...words] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  if (program === "") return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  const script = words.find((word) => !word.startsWith("-"));
  return /^node\d*$/.test(basename(program)) && script ? `node ${script}` : basename(program);
}

/** proc_pid_net(5): local address is field 2, the state field 4 (0A is LISTEN), the inode field 10. */
function listeningInode(port: number): string | undefined {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  for (const table of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    for (const line of readFileSync(table, "utf8").split("\n").slice(1)) {
      const fields = line.trim().split(/\s+/);
      if (fields[1]?.endsWith(suffix) && fields[3] === "0A") return fields[9];
    }
  }
  return undefined;
}

function processWithSocket(inode: string): string | undefined {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    if (openFiles(pid).some((target) => target === `socket:[${inode}]`)) return pid;
  }
  return undefined;
}

function openFiles(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => openFile(`/proc/${pid}/fd/${fd}`));
  } catch {
    return []; // Somebody else's process, or one that ended.
  }
}

function openFile(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return ""; // Closed since the folder was read, as the folder itself is.
  }
}
