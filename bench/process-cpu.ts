import { readdirSync, readFileSync } from "node:fs";

/** Linux counts process time in ticks of 1/100 s (`getconf CLK_TCK`), which has been 100 on every x86 and Arm kernel. */
const secondsPerTick = 0.01;

/** CPU seconds, user and system, of a process and all its live descendants; from /proc/PID/stat (proc(5)). */
export function cpuSecondsOfTree(rootPid: number): number {
  const stats = new Map<number, { parent: number; ticks: number }>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const text = readFileSync(`/proc/${entry}/stat`, "utf8");
      // The command's name, in parentheses, may hold spaces: fields are counted from behind it.
      const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
      stats.set(Number(entry), { parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]) });
    } catch {
      // The process ended between the listing and the reading.
    }
  }
  let ticks = 0;
  const open = [rootPid];
  for (let pid = open.pop(); pid !== undefined; pid = open.pop()) {
    ticks += stats.get(pid)?.ticks ?? 0;
    for (const [child, stat] of stats) if (stat.parent === pid) open.push(child);
  }
  return ticks * secondsPerTick;
}
