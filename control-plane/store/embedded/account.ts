import { readFile, realpath, stat } from "node:fs/promises";
import { dirname, join } from "node:path";

/** A user that a child process runs as. */
export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/** In order of preference; none of them may log in or own anything that matters. */
const unprivileged = ["helixmesh", "nobody", "postgres"];

/**
 * PostgreSQL refuses to run as root. Undefined when this process is not root: the server then runs as we do. Under root
 * it is the owner of an existing data folder, else the first unprivileged account of `passwd` (the text of /etc/passwd).
 */
export function chooseAccount(
  ourUid: number | undefined,
  dataOwner: { readonly uid: number; readonly gid: number } | undefined,
  passwd: string,
): Account | undefined {
  if (ourUid !== 0) return undefined;
  const accounts = parsePasswd(passwd);
  if (dataOwner && dataOwner.uid !== 0) {
    const known = accounts.find((account) => account.uid === dataOwner.uid);
    return { name: known?.name ?? `user ${dataOwner.uid}`, uid: dataOwner.uid, gid: known?.gid ?? dataOwner.gid };
  }
  for (const name of unprivileged) {
    const account = accounts.find((candidate) => candidate.name === name && candidate.uid !== 0);
    if (account) return account;
  }
  const any = accounts.find((account) => account.uid !== 0);
  if (any) return any;
  throw new Error(
    "PostgreSQL does not run as root, and /etc/passwd names no other user to run it as. Add one (useradd --system " +
      "helixmesh), start Helixmesh as another user, or point DATABASE_URL at a PostgreSQL server.",
  );
}

export async function readPasswd(): Promise<string> {
  try {
    return await readFile("/etc/passwd", "utf8");
  } catch {
    // A container without the file: chooseAccount says what is missing, if it is needed at all.
    return "";
  }
}

function parsePasswd(text: string): Account[] {
  const accounts: Account[] = [];
  for (const line of text.split("\n")) {
    const [name, , uid, gid] = line.split(":");
    // macOS writes nobody as -2, which is 2^32 - 2 for the kernel.
    if (name && !name.startsWith("#") && uid && gid)
      accounts.push({ name, uid: Number(uid) >>> 0, gid: Number(gid) >>> 0 });
  }
  return accounts;
}

/** Whether `account` may enter every folder down to `path` and, for a file, read it. By mode bits; ACLs are not asked. */
export async function isReachable(path: string, account: Account): Promise<boolean> {
  const target = await realpath(path);
  const parts = [target];
  for (let at = target; at !== dirname(at); at = dirname(at)) parts.push(dirname(at));
  for (const part of parts) {
    const info = await stat(part);
    const shift = info.uid === account.uid ? 6 : info.gid === account.gid ? 3 : 0;
    const needed = info.isDirectory() ? 0o1 : 0o4;
    if (((info.mode >> shift) & needed) === 0) return false;
  }
  return true;
}

/** Where the data folder lies in the eyes of a process that was started in it, whoever may read its parents. */
export const currentFolder = join("/proc", "self", "cwd");
