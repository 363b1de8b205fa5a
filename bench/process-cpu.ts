import { readFileSync, readdirSync } from "node:fs";

/** CPU seconds, user and system, of a process and all its live descendants; from /proc (proc(5)). */
export function cpuSecondsOfTree(rootPid: number): number {
  return treeOf(rootPid).reduce((sum, pid) => sum + cpuSeconds(pid), 0);
}

/** Resident memory of the same processes. */
export function residentBytesOfTree(rootPid: number): number {
  const kib = (pid: number): number => Number(/^VmRSS:\s+(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1] ?? 0);
  return treeOf(rootPid).reduce((sum, pid) => sum + kib(pid) * 1024, 0);
}

/** Linux counts process time in ticks of 1/100 s (`getconf CLK_TCK`), which has been 100 on every x86 and Arm kernel. */
const secondsPerTick = 0.01;

/** The scheduler's own sum is exact to the nanosecond; where a kernel keeps none, ticks have to do. */
function cpuSeconds(pid: number): number {
  const threads = list(`/proc/${pid}/task`);
  const nanoseconds = threads.map((thread) => Number(read(`/proc/${pid}/task/${thread}/schedstat`).split(" ")[0]));
  const sum = nanoseconds.reduce((total, one) => total + one, 0);
  if (sum > 0) return sum / 1e9;
  const fields = statFields(pid);
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * secondsPerTick;
}

function treeOf(rootPid: number): number[] {
  const parents = new Map<number, number>();
  for (const entry of list("/proc")) {
    if (/^\d+$/.test(entry)) parents.set(Number(entry), Number(statFields(Number(entry))[1] ?? 0));
  }
  const tree = [rootPid];
  for (const pid of tree) for (const [child, parent] of parents) if (parent === pid) tree.push(child);
  return tree;
}

/** The command's name, in parentheses, may hold spaces: fields are counted from behind it. */
function statFields(pid: number): string[] {
  const text = read(`/proc/${pid}/stat`);
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}

/** A process may end between the listing and the reading: then it has nothing. */
function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
