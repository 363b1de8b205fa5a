import { mkdir, stat } from "node:fs/promises";
import { dirname } from "node:path";

/**
 * Makes a folder and its parents, level by level; what exists stays as it is.
 * Node's own recursive way never ends where no folder can be made, such as below /proc.
 */
export async function makeFolder(dir: string, mode: number): Promise<void> {
  const existing = await stat(dir).catch(() => undefined); // Why it cannot be seen, mkdir says better.
  if (existing?.isDirectory()) return;
  const parent = dirname(dir);
  if (parent !== dir) await makeFolder(parent, mode);
  try {
    await mkdir(dir, { mode });
  } catch (error) {
    // Another process may have made it meanwhile.
    if (!(await stat(dir).catch(() => undefined))?.isDirectory()) throw error;
  }
}
