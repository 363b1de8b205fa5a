import { link, readFile, rename, rm, writeFile } from "node:fs/promises";
import { sleep, systemClock } from "#kernel/clock.ts";
import { type ProcessIdentity, identify, stillRuns } from "#kernel/process-identity.ts";
import { newId } from "#kernel/random.ts";

/** What a lock file says: the process that holds it, and what that process wrote down beside. */
export type LockContent = ProcessIdentity & Readonly<Record<string, unknown>>;

export type LockOutcome =
  /** `left`: what a holder that is gone had written, such as what must be cleared up after it. */
  | { readonly kind: "taken"; readonly left: LockContent | undefined; readonly release: () => Promise<void> }
  | { readonly kind: "held"; readonly pid: number };

/** How long another's takeover, some file operations, may take before it counts as the holder. */
const takeoverTries = 200;
const takeoverPauseMs = 5;

/**
 * Makes this process the only holder of `path`, in a folder that exists, until `release`. The lock of a process that is
 * gone is taken over, and so is a damaged one. Holders are known by pid and start time, so all of them must run on one
 * machine and see each other's processes.
 *
 * Of many that try, one gets it: an absent file is made by a hard link, which fails where there is one, and a stale file
 * is replaced only by the holder of a lock of its own, `path.next`, so that nobody takes away what another just put
 * there. A `path.next` that was left behind is taken over in the same way.
 */
export async function takeLockFile(path: string, beside: Readonly<Record<string, unknown>> = {}): Promise<LockOutcome> {
  const draft = `${path}.${newId("draft")}`;
  const release = () => rm(path, { force: true });
  await writeFile(draft, lockText(beside), { mode: 0o600 });
  try {
    for (let tries = 1; ; tries++) {
      if (await linked(draft, path)) return { kind: "taken", left: undefined, release };
      const seen = await readLock(path);
      if (isHeld(seen)) return { kind: "held", pid: seen.pid };
      if (seen === "absent") continue;
      const takeover = await takeLockFile(`${path}.next`);
      if (takeover.kind === "held") {
        if (tries >= takeoverTries) return takeover;
        await sleep(systemClock, takeoverPauseMs);
        continue;
      }
      try {
        const stale = await readLock(path);
        if (stale === "absent" || isHeld(stale)) continue;
        await rename(draft, path);
        return { kind: "taken", left: stale === "damaged" ? undefined : stale, release };
      } finally {
        await takeover.release();
      }
    }
  } finally {
    await rm(draft, { force: true });
  }
}

/** The content of a lock file of this process. */
export function lockText(beside: Readonly<Record<string, unknown>>): string {
  return JSON.stringify({ ...beside, ...(identify(process.pid) ?? { pid: process.pid, started: "" }) });
}

/** Atomic: the file appears whole or not at all, for one of several that try. */
async function linked(draft: string, path: string): Promise<boolean> {
  try {
    await link(draft, path);
    return true;
  } catch (error) {
    if (hasCode(error, "EEXIST")) return false;
    throw error;
  }
}

/** "damaged" by a crash of the machine: nobody's. */
async function readLock(path: string): Promise<LockContent | "absent" | "damaged"> {
  try {
    const content: unknown = JSON.parse(await readFile(path, "utf8"));
    if (typeof content !== "object" || content === null || !("pid" in content && "started" in content))
      return "damaged";
    const { pid, started } = content;
    return typeof pid === "number" && typeof started === "string" ? { ...content, pid, started } : "damaged";
  } catch (error) {
    if (error instanceof SyntaxError) return "damaged";
    if (hasCode(error, "ENOENT")) return "absent";
    throw error;
  }
}

function isHeld(lock: LockContent | "absent" | "damaged"): lock is LockContent {
  return typeof lock === "object" && stillRuns(lock);
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
