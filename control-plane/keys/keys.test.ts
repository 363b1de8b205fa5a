import { chmod, mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { createApiKey, parseApiKey } from "#kernel/api-key.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { ensureProject } from "../tenants/projects.ts";
import { type TestDatabase, openTestDatabase } from "../store/test-database.ts";
import { type KeyAuthenticator, createKeyAuthenticator } from "./authenticate.ts";
import { bootstrap } from "./bootstrap.ts";
import { type CreatedKey, createKey, listKeys, revokeKey, usableKeys } from "./keys.ts";

let database: TestDatabase;
let clock: ManualClock;
beforeAll(async () => {
  database = await openTestDatabase();
});
afterAll(() => database.close());
beforeEach(async () => {
  clock = new ManualClock();
  await database.sql`TRUNCATE keys, projects, organisations`;
  await ensureProject(database.sql, clock, { organisationId: "default", projectId: "default" });
});

function make(
  fields: { name?: string; role?: KeyRole; project?: string; expiresAtMs?: number } = {},
): Promise<CreatedKey> {
  return createKey(database.sql, clock, {
    name: "mine",
    role: KeyRole.INFERENCE,
    project: "",
    expiresAtMs: 0,
    ...fields,
  });
}

describe("keys", () => {
  test("are stored as a hash, with the first project where none is named", async () => {
    const { key, secret } = await make();
    const stored = JSON.stringify(await database.sql`SELECT * FROM keys`);
    expect(key.projectId).toBe("default");
    expect(stored).toContain(key.id);
    expect(stored).not.toContain(secret.split("_")[2]);
  });

  test("are listed by creation, page by page, revoked ones included", async () => {
    const made: string[] = [];
    for (const name of ["a", "b", "c"]) {
      made.push((await make({ name })).key.id);
      clock.advance(1);
    }
    await revokeKey(database.sql, clock, made[0] ?? "");
    const first = await listKeys(database.sql, { pageSize: 2, pageToken: "" });
    const second = await listKeys(database.sql, { pageSize: 2, pageToken: first.nextPageToken });
    expect([...first.keys, ...second.keys].map((key) => key.id)).toEqual(made);
    expect(second.nextPageToken).toBe("");
  });

  test("are usable until they expire or are revoked, each for its role", async () => {
    const { key: kept } = await make();
    await make({ expiresAtMs: clock.nowMs() + 10 });
    await make({ role: KeyRole.ROUTER });
    const { key: revoked } = await make();
    await revokeKey(database.sql, clock, revoked.id);
    clock.advance(10);
    expect((await usableKeys(database.sql, clock, KeyRole.INFERENCE)).map((key) => key.id)).toEqual([kept.id]);
  });

  test("keep the time of their first revocation; unknown ones are not found", async () => {
    const { key } = await make();
    const atMs = clock.nowMs();
    await revokeKey(database.sql, clock, key.id);
    clock.advance(1_000);
    await revokeKey(database.sql, clock, key.id);
    expect((await listKeys(database.sql, { pageSize: 0, pageToken: "" })).keys[0]?.revokedAtMs).toBe(atMs);
    await expect(revokeKey(database.sql, clock, "nobody")).rejects.toMatchObject({ reason: Reason.NOT_FOUND });
  });

  test("are refused with the field at fault", async () => {
    await expect(make({ name: "" })).rejects.toMatchObject({ field: "name" });
    await expect(make({ role: KeyRole.UNSPECIFIED })).rejects.toMatchObject({ field: "role" });
    await expect(make({ expiresAtMs: clock.nowMs() })).rejects.toMatchObject({ field: "expires_at_ms" });
    await expect(make({ project: "none" })).rejects.toMatchObject({ field: "project", reason: Reason.NOT_FOUND });
  });
});

describe("authenticating", () => {
  let keys: KeyAuthenticator;
  beforeAll(async () => {
    clock = new ManualClock();
  });
  beforeEach(async () => {
    keys = await createKeyAuthenticator({ database, clock, cacheEntries: 4 });
    return () => keys.close();
  });

  const bearer = (secret: string): string => `Bearer ${secret}`;

  test("lets a key through for its role and no other", async () => {
    const { key, secret } = await make({ role: KeyRole.OPERATOR });
    expect(await keys.authenticateKey(bearer(secret), KeyRole.OPERATOR)).toEqual(key);
    await expect(keys.authenticateKey(bearer(secret), KeyRole.NODE)).rejects.toMatchObject({
      reason: Reason.PERMISSION_DENIED,
    });
  });

  test("refuses missing, malformed, unknown and wrong keys in the same words", async () => {
    const { key } = await make();
    const wrong = `hm_${key.id}_${"0".repeat(48)}`;
    const headers = [undefined, "Basic abc", "Bearer nonsense", bearer(createApiKey().text), bearer(wrong)];
    const refusals = await Promise.all(
      headers.map((header) => keys.authenticateKey(header, KeyRole.INFERENCE).catch((error: unknown) => error)),
    );
    expect(refusals.map((error) => error instanceof Error && error.message)).toEqual(
      headers.map(() => expect.stringContaining("missing, malformed, unknown, expired or revoked")),
    );
    expect(new Set(refusals.map((error) => error instanceof Error && error.message)).size).toBe(1);
  });

  test("refuses a key from the moment it expires, though it is remembered", async () => {
    const { secret } = await make({ expiresAtMs: clock.nowMs() + 10 });
    await keys.authenticateKey(bearer(secret), KeyRole.INFERENCE);
    clock.advance(10);
    await expect(keys.authenticateKey(bearer(secret), KeyRole.INFERENCE)).rejects.toMatchObject({
      reason: Reason.INVALID_API_KEY,
    });
  });

  test("forgets a remembered key when it is revoked", async () => {
    const { key, secret } = await make();
    await keys.authenticateKey(bearer(secret), KeyRole.INFERENCE);
    const heard = Promise.withResolvers<string>();
    const stop = await database.onChanged(heard.resolve);
    await revokeKey(database.sql, clock, key.id);
    await heard.promise;
    stop();
    await expect(keys.authenticateKey(bearer(secret), KeyRole.INFERENCE)).rejects.toMatchObject({
      reason: Reason.INVALID_API_KEY,
    });
  });

  test("says that the database does not answer, rather than that a key is wrong", async () => {
    const lost = await openTestDatabase();
    const lostKeys = await createKeyAuthenticator({ database: lost, clock });
    await lost.close();
    await expect(lostKeys.authenticateKey(bearer(createApiKey().text), KeyRole.INFERENCE)).rejects.toMatchObject({
      reason: Reason.CONTROL_PLANE_UNAVAILABLE,
    });
  });
});

describe("bootstrapping", () => {
  let dir: string;
  const files = ["key", "node-key", "operator-key", "router-key"];
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "helixmesh-keys-"));
    return () => rm(dir, { recursive: true, force: true });
  });

  const run = (): Promise<void> => bootstrap({ sql: database.sql, clock, logger: silentLogger, dir });
  const read = async (): Promise<string[]> => Promise.all(files.map((file) => readFile(join(dir, file), "utf8")));

  test("writes the four keys, for their owner alone, and keeps them on the next start", async () => {
    await run();
    const first = await read();
    await run();
    expect(await read()).toEqual(first);
    expect((await readdir(dir)).toSorted()).toEqual(files);
    const modes = await Promise.all(files.map(async (file) => (await stat(join(dir, file))).mode & 0o777));
    expect(modes).toEqual([0o600, 0o600, 0o600, 0o600]);
  });

  test("gives each file its role", async () => {
    await run();
    const keys = await createKeyAuthenticator({ database, clock });
    const roles = [KeyRole.INFERENCE, KeyRole.NODE, KeyRole.OPERATOR, KeyRole.ROUTER];
    for (const [index, text] of (await read()).entries()) {
      const role = roles[index] ?? KeyRole.UNSPECIFIED;
      expect((await keys.authenticateKey(`Bearer ${text.trim()}`, role)).role).toBe(role);
    }
    keys.close();
  });

  test("replaces a file that is damaged, of another database, open to others or revoked, and no other", async () => {
    await run();
    const [before = "", node = "", operator = "", routerBefore = ""] = await read();
    await writeFile(join(dir, "key"), `${createApiKey().text}\n`);
    await writeFile(join(dir, "node-key"), "half a k");
    await chmod(join(dir, "node-key"), 0o644);
    await revokeKey(database.sql, clock, parseApiKey(routerBefore.trim())?.id ?? "");
    await run();
    const after = await read();
    expect(after[0]).not.toBe(before);
    expect(after[1]).not.toBe(node);
    expect(after[2]).toBe(operator);
    expect(after[3]).not.toBe(routerBefore);
    expect((await stat(join(dir, "node-key"))).mode & 0o777).toBe(0o600);
  });

  test("makes one set of keys when several control planes start at once", async () => {
    await Promise.all([run(), run(), run()]);
    expect((await listKeys(database.sql, { pageSize: 0, pageToken: "" })).keys).toHaveLength(4);
  });
});
