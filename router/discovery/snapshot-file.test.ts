import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { afterEach, beforeEach, expect, test } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { silentLogger } from "#kernel/log.ts";
import { indexSnapshot } from "./snapshot.ts";
import { SnapshotFile } from "./snapshot-file.ts";

let dir = "";
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "router-snapshot-"));
});
afterEach(() => rm(dir, { recursive: true }));

const snapshot = (version: bigint) => indexSnapshot(create(SnapshotSchema, { version, models: [{ name: "pocket" }] }));

test("the last snapshot saved is the one loaded", async () => {
  const file = new SnapshotFile(dir, silentLogger);
  for (let version = 1n; version <= 20n; version++) file.save(snapshot(version));
  await file.flush();
  const loaded = await new SnapshotFile(dir, silentLogger).load();
  expect(loaded?.version).toBe(20n);
  expect(loaded?.models.has("pocket")).toBe(true);
});

test("only the owner may read the file, and no temporary one stays", async () => {
  const file = new SnapshotFile(dir, silentLogger);
  file.save(snapshot(1n));
  await file.flush();
  expect(await readdir(dir)).toEqual(["snapshot.binpb"]);
  expect((await stat(join(dir, "snapshot.binpb"))).mode & 0o777).toBe(0o600);
});

test("a missing file loads as nothing", async () => {
  expect(await new SnapshotFile(dir, silentLogger).load()).toBeUndefined();
});

test("a damaged file loads as nothing", async () => {
  await writeFile(join(dir, "snapshot.binpb"), "not a snapshot");
  expect(await new SnapshotFile(dir, silentLogger).load()).toBeUndefined();
});
