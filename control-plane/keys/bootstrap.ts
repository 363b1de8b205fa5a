import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { parseApiKey, sameSecret } from "#kernel/api-key.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import { newId } from "#kernel/random.ts";
import { makeFolder } from "#kernel/make-folder.ts";
import type { Sql, Transaction } from "../store/database.ts";
import { ensureProject } from "../tenants/projects.ts";
import { createKey, findKey, isUsable } from "./keys.ts";

/** Key files that a mesh on one machine starts from; each holds one key and a line end, mode 0600. */
const keyFiles: readonly { readonly file: string; readonly role: KeyRole; readonly name: string }[] = [
  { file: "key", role: KeyRole.INFERENCE, name: "first key" },
  { file: "operator-key", role: KeyRole.OPERATOR, name: "first operator key" },
  { file: "router-key", role: KeyRole.ROUTER, name: "first router key" },
  { file: "node-key", role: KeyRole.NODE, name: "first node key" },
];
const defaultProject = { organisationId: "default", projectId: "default" };
/** Of several control planes that share a folder, one at a time. */
const advisoryLock = 0x68656c69786b6579n;

export interface BootstrapOptions {
  readonly sql: Sql;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly dir: string;
}

/**
 * Makes organisation and project "default", and in `dir` every key file that is missing or whose key no longer works.
 * A file is written before its key is committed: a crash in between leaves a file that the next start replaces, never a
 * working key that nobody has.
 */
export async function bootstrap({ sql, clock, logger, dir }: BootstrapOptions): Promise<void> {
  await makeFolder(dir, 0o700);
  await sql.begin(async (transaction) => {
    await transaction`SELECT pg_advisory_xact_lock(${advisoryLock})`;
    const project = await ensureProject(transaction, clock, defaultProject);
    for (const { file, role, name } of keyFiles) {
      const path = join(dir, file);
      if (await holdsUsableKey(transaction, clock, path, role)) continue;
      const { key, secret } = await createKey(transaction, clock, { name, role, project: project.id, expiresAtMs: 0 });
      await replaceFile(path, `${secret}\n`);
      logger.info("wrote a new key file", { path, keyId: key.id });
    }
  });
}

async function holdsUsableKey(sql: Transaction, clock: Clock, path: string, role: KeyRole): Promise<boolean> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return false;
    throw error;
  }
  const held = parseApiKey(text.trim());
  const stored = held && (await findKey(sql, held.id));
  if (!held || !stored) return false;
  return stored.role === role && isUsable(stored, clock.nowMs()) && sameSecret(stored.secretSha256, held.secretSha256);
}

/** Whole or not at all, and readable by its owner alone from the first byte. */
async function replaceFile(path: string, text: string): Promise<void> {
  const draft = `${path}.${newId("draft")}`;
  try {
    await writeFile(draft, text, { mode: 0o600, flag: "wx" });
    await rename(draft, path);
  } finally {
    await rm(draft, { force: true });
  }
}
