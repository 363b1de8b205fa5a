import { link, readFile, rename, rm, unlink, writeFile } from "node:fs/promises";
import { type ProcessIdentity, identify, stillRuns } from "#kernel/process-identity.ts";
import { newId } from "#kernel/random.ts";

/** What a lock file says: the process that holds it, and what that process wrote down beside. */
export type LockContent = ProcessIdentity & Readonly<Record<string, unknown>>;

export type LockOutcome =
  /** `left`: what a holder that is gone had written, such as what must be cleared up after it. */
  | { readonly kind: "taken"; readonly left: LockContent | undefined; readonly release: () => Promise<void> }
  | { readonly kind: "held"; readonly pid: number };

/**
 * Makes this process the only holder of `path`, in a folder that exists, until `release`. The lock of a process that is
 * gone is taken over, and so is a damaged one. Holders are known by pid and start time, so all of them must run on one
 * machine and see each other's processes.
 */
export async function takeLockFile(path: string, beside: Readonly<Record<string, unknown>> = {}): Promise<LockOutcome> {
  const draft = `${path}.${newId("draft")}`;
  let left: LockContent | undefined;
  await writeFile(draft, lockText(beside), { mode: 0o600 });
  try {
    while (!(await linked(draft, path))) {
      const holder = await readLock(path);
      if (holder && stillRuns(holder)) return { kind: "held", pid: holder.pid };
      left = holder ?? left;
      await removeStale(path, holder);
    }
  } finally {
    await unlink(draft);
  }
  return { kind: "taken", left, release: () => rm(path, { force: true }) };
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

/** Two that start at once may both see a stale file: the slower one must not take away what the faster one put there. */
async function removeStale(path: string, seen: LockContent | undefined): Promise<void> {
  const aside = `${path}.${newId("stale")}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return;
    throw error;
  }
  const taken = await readLock(aside);
  if (taken && (taken.pid !== seen?.pid || taken.started !== seen.started)) await linked(aside, path);
  await rm(aside, { force: true });
}

/** Undefined for one that is gone in this moment or was damaged by a crash of the machine: nobody's in both cases. */
async function readLock(path: string): Promise<LockContent | undefined> {
  try {
    const content: unknown = JSON.parse(await readFile(path, "utf8"));
    if (typeof content !== "object" || content === null || !("pid" in content) || !("started" in content))
      return undefined;
    const { pid, started } = content;
    return typeof pid === "number" && typeof started === "string" ? { ...content, pid, started } : undefined;
  } catch {
    return undefined;
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
