import { cp, mkdtemp, readFile, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { silentLogger } from "#kernel/log.ts";
import { type Spool, openSpool } from "#kernel/spool.ts";

let root = "";
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "helixmesh-spool-"));
});
afterAll(() => rm(root, { recursive: true }));

const freshDir = () => mkdtemp(join(root, "d"));
const bytes = (text: string) => new TextEncoder().encode(text);
const texts = (records: readonly Uint8Array[]) => records.map((record) => new TextDecoder().decode(record));

const opened: Spool[] = [];
afterEach(async () => {
  for (const spool of opened.splice(0)) await spool.close();
});

/** As after a crash of the process before: the lock that this process may still hold, or a copy of it, does not count. */
async function open(dir: string, options: { maxBytes?: number; segmentBytes?: number } = {}): Promise<Spool> {
  await rm(join(dir, "lock"), { force: true });
  const spool = await openSpool({ dir, maxBytes: 1e6, segmentBytes: 1e6, logger: silentLogger, ...options });
  opened.push(spool);
  return spool;
}

async function contents(spool: Spool): Promise<string[]> {
  return texts((await spool.peek(1_000_000)).records);
}

async function segments(dir: string): Promise<string[]> {
  return (await readdir(dir)).filter((name) => name.endsWith(".segment")).sort();
}

/** Left open, as by a killed process. */
async function filled(dir: string, records: readonly string[], segmentBytes = 1_000_000): Promise<Spool> {
  const spool = await open(dir, { segmentBytes });
  for (const record of records) {
    spool.append(bytes(record));
    await spool.flush();
  }
  return spool;
}

test("is one process's at a time, from opening to closing", async () => {
  const dir = await freshDir();
  const spool = await open(dir);
  const options = { dir, maxBytes: 1e6, segmentBytes: 1e6, logger: silentLogger };
  await expect(openSpool(options)).rejects.toThrow(
    `Process ${process.pid} already uses the spool in ${dir}. Stop it, or give this one another state folder`,
  );
  spool.append(bytes("a"));
  await spool.close();
  const next = await openSpool(options);
  expect(await contents(next)).toEqual(["a"]);
  await next.close();
});

test("gives records in their order, again until they are committed", async () => {
  const spool = await filled(await freshDir(), ["a", "b", "c"]);
  const batch = await spool.peek(2);
  expect(texts(batch.records)).toEqual(["a", "b"]);
  expect(texts((await spool.peek(2)).records)).toEqual(["a", "b"]);
  await batch.commit();
  expect(await contents(spool)).toEqual(["c"]);
  await spool.close();
});

test("gives what was appended this very moment, empty records too", async () => {
  const spool = await open(await freshDir());
  spool.append(bytes(""));
  spool.append(bytes("x"));
  expect(await contents(spool)).toEqual(["", "x"]);
  await spool.close();
});

test("writes on its own soon after an append", async () => {
  const dir = await freshDir();
  const spool = await open(dir);
  spool.append(bytes("a"));
  await expect.poll(async () => (await segments(dir)).length).toBe(1);
  await spool.close();
});

test("keeps what is not committed over a restart, and forgets what is", async () => {
  const dir = await freshDir();
  const spool = await filled(dir, ["a", "b", "c"]);
  await (await spool.peek(1)).commit();
  const second = await open(dir);
  expect(second.size().records).toBe(2);
  second.append(bytes("d"));
  expect(await contents(second)).toEqual(["b", "c", "d"]);
  await (await second.peek(3)).commit();
  expect((await open(dir)).size()).toEqual({ records: 0, bytes: 0 });
});

test("a crash at any byte of the tail loses only records that lie behind it", async () => {
  const dir = await freshDir();
  const records = ["first", "", "third record"];
  await filled(dir, records);
  const [name = ""] = await segments(dir);
  const whole = await readFile(join(dir, name));
  const ends = [13, 21, 41];
  expect(whole.length).toBe(41);
  for (let length = 0; length <= whole.length; length++) {
    const copy = await freshDir();
    await cp(dir, copy, { recursive: true });
    await truncate(join(copy, name), length);
    const spool = await open(copy);
    const survivors = records.slice(0, ends.filter((end) => end <= length).length);
    expect(await contents(spool)).toEqual(survivors);
    spool.append(bytes("after"));
    expect(await contents(spool)).toEqual([...survivors, "after"]);
    await spool.close();
    expect(await contents(await open(copy))).toEqual([...survivors, "after"]);
  }
});

test("a flipped bit or zeros in any byte of the last record cost that record alone", async () => {
  const dir = await freshDir();
  await filled(dir, ["first", "second"]);
  const [name = ""] = await segments(dir);
  const whole = await readFile(join(dir, name));
  for (let at = 13; at < whole.length; at++) {
    for (const damaged of [(whole[at] ?? 0) ^ 4, 0].filter((byte) => byte !== whole[at])) {
      const copy = await freshDir();
      await writeFile(join(copy, name), whole.with(at, damaged));
      expect(await contents(await open(copy))).toEqual(["first"]);
    }
  }
  const copy = await freshDir();
  await writeFile(join(copy, name), Buffer.concat([whole, Buffer.alloc(64)]));
  expect(await contents(await open(copy))).toEqual(["first", "second"]);
});

test("a cursor cut at any byte gives records again and loses none", async () => {
  const dir = await freshDir();
  const spool = await filled(dir, ["a", "b", "c"]);
  await (await spool.peek(2)).commit();
  const cursor = await readFile(join(dir, "cursor"));
  for (let length = 0; length < cursor.length; length++) {
    const copy = await freshDir();
    await cp(dir, copy, { recursive: true });
    await truncate(join(copy, "cursor"), length);
    expect(await contents(await open(copy))).toEqual(["a", "b", "c"]);
  }
  const copy = await freshDir();
  await cp(dir, copy, { recursive: true });
  await writeFile(join(copy, "cursor.new"), cursor.subarray(0, 5));
  expect(await contents(await open(copy))).toEqual(["c"]);
});

test("a cursor damaged at any byte gives again at most what was committed last", async () => {
  const dir = await freshDir();
  const spool = await filled(dir, ["a", "b", "c", "d"]);
  for (let commits = 0; commits < 3; commits++) await (await spool.peek(1)).commit();
  const cursor = await readFile(join(dir, "cursor"));
  for (const [at, byte] of cursor.entries()) {
    // The gap between the two places is nobody's.
    if (byte === 0 && cursor.subarray(at, at + 16).every((next) => next === 0)) continue;
    const copy = await freshDir();
    await cp(dir, copy, { recursive: true });
    await writeFile(join(copy, "cursor"), cursor.with(at, byte ^ 4));
    expect(["d", "c,d"]).toContain((await contents(await open(copy))).join());
  }
});

test("reads over segments and deletes each that is committed", async () => {
  const dir = await freshDir();
  const spool = await filled(dir, ["aaaa", "bbbb", "cccc", "dddd"], 24);
  expect(await segments(dir)).toHaveLength(2);
  const batch = await spool.peek(3);
  expect(texts(batch.records)).toEqual(["aaaa", "bbbb", "cccc"]);
  await batch.commit();
  expect(await segments(dir)).toHaveLength(1);
  expect(await contents(spool)).toEqual(["dddd"]);
  await spool.close();
});

test("reads a batch and a record that are larger than what is read at once", async () => {
  const spool = await open(await freshDir(), { maxBytes: 1e7, segmentBytes: 1e7 });
  const records = ["a".repeat(400_000), "b".repeat(2_500_000), "c", "d".repeat(900_000), "e".repeat(300_000)];
  for (const record of records) spool.append(bytes(record));
  expect((await contents(spool)).map((record) => record.length)).toEqual(records.map((record) => record.length));
  await (await spool.peek(2)).commit();
  expect((await contents(spool)).map((record) => record[0])).toEqual(["c", "d", "e"]);
});

test("refuses what has no room, tells the listener, and has room again after a commit", async () => {
  const spool = await open(await freshDir(), { maxBytes: 20 });
  const dropped: string[] = [];
  spool.onFull((record) => dropped.push(...texts([record])));
  for (const record of ["a", "b", "c"]) spool.append(bytes(record));
  expect(dropped).toEqual(["c"]);
  await (await spool.peek(1)).commit();
  spool.append(bytes("d"));
  expect(dropped).toEqual(["c"]);
  expect(await contents(spool)).toEqual(["b", "d"]);
  expect(spool.size()).toEqual({ records: 2, bytes: 18 });
  await spool.close();
});

test("a batch committed twice, or after a newer one, is committed once", async () => {
  const spool = await filled(await freshDir(), ["a", "b", "c"]);
  const [first, second] = [await spool.peek(2), await spool.peek(1)];
  await first.commit();
  await first.commit();
  await second.commit();
  expect(await contents(spool)).toEqual(["c"]);
  expect(spool.size().records).toBe(1);
  await spool.close();
});

test("keeps records in memory while the disk refuses, and writes them when it takes them again", async () => {
  const dir = await freshDir();
  const spool = await open(dir);
  await rm(dir, { recursive: true });
  spool.append(bytes("a"));
  await expect(spool.flush()).rejects.toThrow("ENOENT");
  await cp(await freshDir(), dir, { recursive: true });
  await spool.flush();
  expect(await contents(spool)).toEqual(["a"]);
  await spool.close();
});

test("gives each record once and in order through any mix of appends, commits and restarts", async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant("append" as const), length: fc.nat(30) }),
    fc.record({ kind: fc.constant("take" as const), max: fc.integer({ min: 1, max: 4 }) }),
    fc.record({ kind: fc.constant("restart" as const) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      const dir = await freshDir();
      let spool = await open(dir, { segmentBytes: 40 });
      const all: string[] = [];
      const taken: string[] = [];
      let waiting = 0;
      let next = 0;
      for (const action of steps) {
        if (action.kind === "append") {
          const record = `${next++}`.padEnd(action.length, ".");
          all.push(record);
          waiting++;
          spool.append(bytes(record));
        } else if (action.kind === "take") {
          const batch = await spool.peek(action.max);
          taken.push(...texts(batch.records));
          await batch.commit();
          waiting = Math.max(0, waiting - action.max);
        } else {
          await spool.close();
          spool = await open(dir, { segmentBytes: 40 });
        }
        expect(spool.size().records).toBe(waiting);
      }
      const left = await contents(spool);
      expect([...taken, ...left]).toEqual(all);
      const sizes = left.map((record) => record.length + 8);
      expect(spool.size().bytes).toBe(sizes.reduce((sum, size) => sum + size, 0));
      await spool.close();
    }),
    { numRuns: 25, seed: 7 },
  );
});
