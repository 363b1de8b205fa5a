import { randomBytes } from "node:crypto";
import { chown, mkdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Account, isReachable } from "./account.ts";
import { socketDirPrefix } from "./claim.ts";

/** Fixed: it only names the socket's file. */
export const socketPort = 5432;
/** sockaddr_un: 108 bytes on Linux and 104 on macOS, the closing zero included. */
const longestSocketPath = 103;

/**
 * Where the server's socket goes: in the state folder, or where that path is too long or closed to the server's user, a
 * new name in the system's temporary folder.
 */
export async function chooseSocketFolder(dir: string, account: Account | undefined): Promise<string> {
  const inState = join(dir, "socket");
  if (fits(inState) && (!account || (await isReachable(dir, account)))) return inState;
  for (const base of new Set([tmpdir(), "/tmp"])) {
    const inTemporary = join(base, socketDirPrefix + randomBytes(6).toString("hex"));
    if (fits(inTemporary) && (!account || (await isReachable(base, account)))) return inTemporary;
  }
  throw new Error(
    `A socket path of the database may have ${longestSocketPath} bytes, and neither ${dir} nor ${tmpdir()} leaves room for ` +
      `one that its user can enter. Use a shorter state folder (--state).`,
  );
}

/** Made anew, for the server's user (and root) alone: whoever can enter it can use the database. */
export async function makeSocketFolder(path: string, account: Account | undefined): Promise<void> {
  await rm(path, { recursive: true, force: true });
  await mkdir(path, { mode: 0o700 });
  if (account) await chown(path, account.uid, account.gid);
}

function fits(dir: string): boolean {
  return Buffer.byteLength(join(dir, `.s.PGSQL.${socketPort}`)) <= longestSocketPath;
}
