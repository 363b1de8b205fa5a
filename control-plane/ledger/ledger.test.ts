import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  ListUsageRequestSchema,
  SummarizeUsageRequestSchema,
  UsageDimension,
  type UsageEntry,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Outcome, type UsageRecord, UsageRecordSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { setPrice } from "../prices/prices.ts";
import { type TestDatabase, openTestDatabase } from "../store/test-database.ts";
import { type Ledger, createLedger } from "./ledger.ts";
import type { Reporter } from "./record-usage.ts";

const router: Reporter = { kind: "router", routerId: "router-1" };
const agent: Reporter = { kind: "agent", nodeId: "node_1" };
const startMs = 1_763_700_000_000;

let database: TestDatabase;
let ledger: Ledger;
let clock: ManualClock;
let metrics: Metrics;
beforeAll(async () => {
  database = await openTestDatabase();
});
afterAll(() => database.close());
beforeEach(async () => {
  await database.sql`TRUNCATE usage_records, usage_agent_reports, prices`;
  clock = new ManualClock(startMs);
  metrics = new Metrics("test");
  ledger = createLedger({ database, clock, logger: silentLogger, metrics });
});

type Counts = { promptTokens: number; cachedTokens: number; completionTokens: number };
type Fields = Partial<Omit<UsageRecord, "$typeName" | "$unknown" | "usage">> & { usage?: Counts };

function call(callId: string, fields: Fields = {}): UsageRecord {
  return create(UsageRecordSchema, {
    callId,
    keyId: "key-a",
    projectId: "default",
    model: "pocket",
    deployment: "pocket",
    nodeId: "node_1",
    door: "grpc",
    outcome: Outcome.COMPLETED,
    usage: { promptTokens: 10, cachedTokens: 4, completionTokens: 5 },
    startedAtMs: BigInt(startMs),
    durationMs: 30n,
    ttftMs: 9n,
    labels: { Team_Name: "a" },
    attempts: 1,
    ...fields,
  });
}

/** What an agent knows of the same call. */
function seenByAgent(callId: string, fields: Fields = {}): UsageRecord {
  return call(callId, { keyId: "", projectId: "", attempts: 0, labels: {}, ...fields });
}

async function entries(): Promise<UsageEntry[]> {
  return (await ledger.listUsage(create(ListUsageRequestSchema))).entries;
}

async function price(nanos: bigint, effectiveAtMs = 0): Promise<void> {
  const all = { promptNanosPerToken: nanos, cachedNanosPerToken: nanos, completionNanosPerToken: nanos };
  await setPrice(database.sql, clock, "pocket", { ...all, effectiveAtMs });
}

describe("recording", () => {
  test("keeps a call as its router reported it", async () => {
    await ledger.recordUsage([call("c1")], router);
    expect((await entries()).map((entry) => entry.record)).toEqual([call("c1")]);
  });

  test("changes nothing when a report is repeated, in one batch or in several", async () => {
    const first = await ledger.recordUsage([call("c1"), call("c1"), call("c2")], router);
    const second = await ledger.recordUsage([call("c2"), call("c1"), call("c3")], router);
    expect(first).toEqual({ added: ["c1", "c2"], repeated: 1, renamed: [] });
    expect(second).toEqual({ added: ["c3"], repeated: 2, renamed: [] });
    expect(await entries()).toHaveLength(3);
  });

  test("ends the same whichever of router and agent reports first", async () => {
    const reports = [
      { reporter: router, record: call("c1", { usage: { promptTokens: 10, cachedTokens: 4, completionTokens: 3 } }) },
      { reporter: agent, record: seenByAgent("c1") },
    ];
    const outcomes: UsageEntry[][] = [];
    for (const order of [reports, reports.toReversed()]) {
      await database.sql`TRUNCATE usage_records, usage_agent_reports`;
      for (const { reporter, record } of order) await ledger.recordUsage([record], reporter);
      outcomes.push(await entries());
    }
    expect(outcomes[0]).toEqual(outcomes[1]);
    expect(outcomes[0]?.[0]?.record?.usage?.completionTokens).toBe(3);
    expect(outcomes[0]?.[0]?.agentUsage?.completionTokens).toBe(5);
  });

  test("lets an agent's report stand for a call whose router never reported, the latest attempt of several", async () => {
    const late = seenByAgent("c1", { startedAtMs: BigInt(startMs + 50), nodeId: "node_2" });
    await ledger.recordUsage([late], { kind: "agent", nodeId: "node_2" });
    await ledger.recordUsage([seenByAgent("c1", { outcome: Outcome.FAILED, reason: Reason.NODE_LOST })], agent);
    expect((await entries()).map((entry) => entry.record)).toEqual([late]);
  });

  test("counts a call that moved once, with its router's count, whoever reports first", async () => {
    const tokens = (completionTokens: number) => ({ usage: { promptTokens: 10, cachedTokens: 4, completionTokens } });
    const lost = seenByAgent("c1", { ...tokens(7), outcome: Outcome.FAILED, reason: Reason.DRAINING });
    // Each agent counts the call from its beginning.
    const last = seenByAgent("c1", { ...tokens(12), nodeId: "node_2", startedAtMs: BigInt(startMs + 50) });
    const whole = call("c1", { ...tokens(12), nodeId: "node_2", attempts: 2 });
    const reports: { record: UsageRecord; reporter: Reporter }[] = [
      { record: lost, reporter: agent },
      { record: last, reporter: { kind: "agent", nodeId: "node_2" } },
      { record: whole, reporter: router },
    ];
    for (const order of [reports, reports.toReversed(), [...reports.slice(1), ...reports.slice(0, 1)]]) {
      await database.sql`TRUNCATE usage_records, usage_agent_reports`;
      for (const { record, reporter } of order) await ledger.recordUsage([record], reporter);
      expect((await entries()).map(({ record }) => record)).toEqual([whole]);
      const [total] = await ledger.summarizeUsage(create(SummarizeUsageRequestSchema));
      expect(total).toMatchObject({ calls: 1n, promptTokens: 10n, completionTokens: 12n });
    }
  });

  test("counts a call once that another router resumed, whoever reports first, and one that nobody did to its break", async () => {
    const counts = (completionTokens: number) => ({ usage: { promptTokens: 10, cachedTokens: 4, completionTokens } });
    const toTheBreak = seenByAgent("c1", { outcome: Outcome.CANCELLED, ...counts(2) });
    const whole = seenByAgent("c1", { startedAtMs: BigInt(startMs + 700), ...counts(9) });
    // As the router that died had it, should that have reported too.
    const relayed = call("c1", { ...counts(9), durationMs: 900n });
    const [dead, second]: Reporter[] = [router, { kind: "router", routerId: "router-2" }];
    const reports = [
      () => ledger.recordUsage([toTheBreak], agent),
      () => ledger.recordUsage([whole], agent),
      () => ledger.recordUsage([relayed], second ?? router),
      () => ledger.recordUsage([relayed], dead ?? router),
    ];
    for (const order of [reports, reports.toReversed()]) {
      await database.sql`TRUNCATE usage_records, usage_agent_reports`;
      for (const report of order) await report();
      expect((await entries()).map(({ record }) => record)).toEqual([relayed]);
    }
    await database.sql`TRUNCATE usage_records, usage_agent_reports`;
    await ledger.recordUsage([toTheBreak], agent);
    expect((await entries()).map(({ record }) => record?.usage?.completionTokens)).toEqual([2]);
  });

  test("keeps what the router saw that had more of a call, when the first one lives on, whoever reports first", async () => {
    const counts = (completionTokens: number) => ({ usage: { promptTokens: 10, cachedTokens: 4, completionTokens } });
    const parts = [3, 9].map((tokens) => call("c1", { outcome: Outcome.CANCELLED, ...counts(tokens) }));
    const whole = call("c1", { ...counts(9), durationMs: 900n });
    const others = [call("c1", { ...counts(20), keyId: "key-b" }), call("c1", { ...counts(20), startedAtMs: 5n })];
    const second: Reporter = { kind: "router", routerId: "router-2" };
    for (const part of parts) {
      const reports = [() => ledger.recordUsage([part], router), () => ledger.recordUsage([whole], second)];
      for (const order of [reports, reports.toReversed()]) {
        await database.sql`TRUNCATE usage_records, usage_agent_reports`;
        for (const report of order) await report();
        expect((await entries()).map(({ record }) => record)).toEqual([whole]);
      }
    }
    // Another key's, and another call of the same name, are none of it.
    const recorded = await ledger.recordUsage(others, router);
    expect(recorded.renamed).toHaveLength(2);
    expect(await entries()).toHaveLength(3);
  });

  test("takes a node's word for no node but itself", async () => {
    await ledger.recordUsage([seenByAgent("c1", { nodeId: "node_other" })], agent);
    expect((await entries())[0]?.record?.nodeId).toBe("node_1");
  });

  test("keeps every call of a caller that names all its calls the same", async () => {
    const calls = [0, 1, 2].map((i) => call("same", { startedAtMs: BigInt(startMs + i) }));
    const stolen = call("same", { keyId: "key-b" });
    await ledger.recordUsage(calls.slice(0, 2), router);
    const again = await ledger.recordUsage([...calls, stolen], router);
    expect(again.repeated).toBe(2);
    expect(again.renamed).toHaveLength(2);
    expect((await ledger.recordUsage([...calls, stolen], router)).repeated).toBe(4);
    expect(await entries()).toHaveLength(4);
    expect(await metrics.text()).toMatch(/helixmesh_ledger_reports_total\{reporter="router",result="renamed".*\} 3/);
  });

  test("mends what the tables cannot hold, so that one record never holds up the rest", async () => {
    const odd = call("odd\0id", {
      usage: { promptTokens: 1, cachedTokens: 9, completionTokens: 0xffff_ffff },
      startedAtMs: 2n ** 63n,
      durationMs: 2n ** 64n - 1n,
      labels: { "na\0me": "val\0ue" },
    });
    await ledger.recordUsage([odd, call(""), call("c2")], router);
    const records = (await entries()).map((entry) => entry.record);
    expect(records.map((record) => record?.callId)).toEqual(["odd\u{fffd}id", "c2"]);
    expect(records[0]?.usage?.cachedTokens).toBe(1);
    expect(await metrics.text()).toMatch(/result="nameless".*\} 1/);
  });

  test("refuses more than 1,000 records at once", async () => {
    const many = Array.from({ length: 1_001 }, (_, i) => call(`c${i}`));
    await expect(ledger.recordUsage(many, router)).rejects.toThrow(/1001 entries; send at most 1000/);
  });

  test("survives routers and agents that report the same calls at the same time in opposite orders", async () => {
    const calls = Array.from({ length: 200 }, (_, i) => call(`c${i}`));
    const agents = calls.map((each) => seenByAgent(each.callId)).toReversed();
    await Promise.all([
      ledger.recordUsage(calls, router),
      ledger.recordUsage(agents, agent),
      ledger.recordUsage(calls.toReversed(), router),
      ledger.recordUsage(agents.toReversed(), { kind: "agent", nodeId: "node_2" }),
    ]);
    const [total] = await ledger.summarizeUsage(create(SummarizeUsageRequestSchema));
    expect(total?.calls).toBe(200n);
    expect(total?.promptTokens).toBe(2_000n);
  });
});

describe("cost", () => {
  test("is unknown, not zero, without a price", async () => {
    await ledger.recordUsage([call("c1")], router);
    expect((await entries())[0]?.costNanos).toBeUndefined();
    const [total] = await ledger.summarizeUsage(create(SummarizeUsageRequestSchema));
    expect(total).toMatchObject({ costNanos: 0n, unpricedCalls: 1n });
  });

  test("is zero where the price is zero", async () => {
    await price(0n);
    await ledger.recordUsage([call("c1")], router);
    expect((await entries())[0]?.costNanos).toBe(0n);
  });

  test("follows the price in force when the call started, however late it is reported", async () => {
    await price(2n);
    await price(1_000n, startMs + 10);
    clock.advance(60_000);
    await ledger.recordUsage([call("old"), call("new", { startedAtMs: BigInt(startMs + 10) })], router);
    const costs = new Map((await entries()).map((entry) => [entry.record?.callId, entry.costNanos]));
    expect(costs).toEqual(
      new Map([
        ["old", 30n],
        ["new", 15_000n],
      ]),
    );
  });

  test("is exact beyond what a double can hold", async () => {
    await price(1_000_000_000n);
    const usage = { promptTokens: 0xffff_ffff, cachedTokens: 0, completionTokens: 0xffff_fffd };
    await ledger.recordUsage([call("huge", { usage })], router);
    expect((await entries())[0]?.costNanos).toBe((2n ** 33n - 4n) * 1_000_000_000n);
  });

  test("keeps its price when a new one is set, and none can be set in the past", async () => {
    await price(2n);
    await ledger.recordUsage([call("c1")], router);
    await expect(price(5n, startMs - 1)).rejects.toThrow(/is past/);
    clock.advance(1);
    await price(5n);
    await ledger.recordUsage([call("c1")], router);
    expect((await entries())[0]?.costNanos).toBe(30n);
  });
});

describe("summaries", () => {
  beforeEach(async () => {
    await ledger.recordUsage(
      [
        call("c1"),
        call("c2", { model: "other", keyId: "key-b", outcome: Outcome.FAILED }),
        call("c3", { startedAtMs: BigInt(startMs + 86_400_000), outcome: Outcome.CANCELLED }),
      ],
      router,
    );
  });

  test("are kept apart by the dimensions asked for, in that order, sorted", async () => {
    const request = create(SummarizeUsageRequestSchema, { groupBy: [UsageDimension.DAY, UsageDimension.MODEL] });
    const summaries = await ledger.summarizeUsage(request);
    expect(summaries.map(({ group, calls, failedCalls }) => [...group, calls, failedCalls])).toEqual([
      ["2025-11-21", "other", 1n, 1n],
      ["2025-11-21", "pocket", 1n, 0n],
      ["2025-11-22", "pocket", 1n, 1n],
    ]);
  });

  test("count only what the filter lets through: from inclusive, to exclusive", async () => {
    const filter = {
      fromMs: BigInt(startMs),
      toMs: BigInt(startMs + 86_400_000),
      keyId: "key-a",
      project: "default",
      model: "pocket",
    };
    const [total] = await ledger.summarizeUsage(create(SummarizeUsageRequestSchema, { filter }));
    expect(total).toMatchObject({ group: [], calls: 1n, promptTokens: 10n, cachedTokens: 4n, completionTokens: 5n });
  });

  test("are one total of zeros where nothing was used", async () => {
    const summaries = await ledger.summarizeUsage(create(SummarizeUsageRequestSchema, { filter: { model: "unused" } }));
    expect(summaries).toHaveLength(1);
    expect(summaries[0]).toMatchObject({ calls: 0n, costNanos: 0n, unpricedCalls: 0n });
  });

  test("refuse a dimension that is none", async () => {
    const request = create(SummarizeUsageRequestSchema, { groupBy: [UsageDimension.UNSPECIFIED] });
    await expect(ledger.summarizeUsage(request)).rejects.toThrow(/group_by\[0\] is 0/);
  });
});

describe("listing", () => {
  test("pages newest first, neither repeating nor skipping while new calls settle", async () => {
    const named = Array.from({ length: 5 }, (_, i) =>
      call(`c${i}`, { startedAtMs: BigInt(startMs + Math.floor(i / 2)) }),
    );
    await ledger.recordUsage(named, router);
    const seen: (string | undefined)[] = [];
    let pageToken = "";
    do {
      const page = await ledger.listUsage(create(ListUsageRequestSchema, { pageSize: 2, pageToken }));
      seen.push(...page.entries.map((entry) => entry.record?.callId));
      pageToken = page.nextPageToken;
      await ledger.recordUsage([call(`late${seen.length}`, { startedAtMs: BigInt(startMs + 1_000) })], router);
    } while (pageToken !== "");
    expect(seen).toEqual(["c4", "c3", "c2", "c1", "c0"]);
  });

  test("refuses a page token that is not its own, and a page that is too large", async () => {
    const list = (fields: MessageInitShape<typeof ListUsageRequestSchema>): Promise<unknown> =>
      ledger.listUsage(create(ListUsageRequestSchema, fields));
    await expect(list({ pageToken: "bm9uc2Vuc2U" })).rejects.toThrow(/page_token must be/);
    await expect(list({ pageSize: 1_001 })).rejects.toThrow(/page_size is 1001/);
  });
});
