import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { StateFile } from "./state-file.ts";
import { StatusPace } from "./status-pace.ts";

describe("StateFile", () => {
  let dir = "";
  beforeEach(async () => void (dir = await mkdtemp(join(tmpdir(), "helixmesh-state-"))));
  afterEach(() => rm(dir, { recursive: true }));
  const identity = { nodeId: "n", nodeToken: "t", linkToken: "l", heartbeatIntervalMs: 5 };

  test("gives back what was saved, the newest of each part", async () => {
    const path = join(dir, "a", "agent.json");
    const file = new StateFile(path, silentLogger);
    await file.load();
    const desired = [
      create(DesiredReplicaSchema, { replicaId: "r", engine: EngineKind.SIM, engineOptions: { a: "b" } }),
    ];
    const saves = [file.update({ identity }), file.update({ desired: [] }), file.update({ desired })];
    await Promise.all(saves);
    expect(await new StateFile(path, silentLogger).load()).toEqual({ identity, desired });
  });

  test("tells no desired state from an empty one", async () => {
    const path = join(dir, "agent.json");
    const file = new StateFile(path, silentLogger);
    expect((await file.load()).desired).toBeUndefined();
    await file.update({ desired: [] });
    expect((await new StateFile(path, silentLogger).load()).desired).toEqual([]);
  });

  test("starts anew from a file that it cannot use, and keeps it until there is better", async () => {
    const path = join(dir, "agent.json");
    for (const text of ["", "{", '{"version":2}', '{"version":1,"identity":{"nodeId":5}}']) {
      await writeFile(path, text);
      expect(await new StateFile(path, silentLogger).load()).toEqual({ identity: undefined, desired: undefined });
      expect(await readFile(path, "utf8")).toBe(text);
    }
  });
});

describe("StatusPace", () => {
  async function dueAt(clock: ManualClock, pace: StatusPace, changeAtMs?: number): Promise<number> {
    const beganMs = clock.monotonicMs();
    const due = { atMs: -1 };
    void pace.due(new AbortController().signal).then(() => (due.atMs = clock.monotonicMs() - beganMs));
    for (let ms = 0; ms <= 31_000 && due.atMs < 0; ms += 100) {
      await new Promise((resolve) => setImmediate(resolve));
      if (ms === changeAtMs) pace.changed();
      await new Promise((resolve) => setImmediate(resolve));
      if (due.atMs < 0) clock.advance(100);
    }
    return due.atMs;
  }

  test("is due after 30 seconds when nothing changes", async () => {
    const clock = new ManualClock();
    const pace = new StatusPace(clock);
    pace.reported();
    expect(await dueAt(clock, pace)).toBe(30_000);
  });

  test("is due a second after the last report when something changed since", async () => {
    const clock = new ManualClock();
    const pace = new StatusPace(clock);
    pace.reported();
    pace.changed();
    expect(await dueAt(clock, pace)).toBe(1_000);
  });

  test("is due at once when something changes later", async () => {
    const clock = new ManualClock();
    const pace = new StatusPace(clock);
    pace.reported();
    expect(await dueAt(clock, pace, 5_000)).toBe(5_000);
  });
});
