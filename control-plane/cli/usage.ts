import {
  UsageDimension,
  UsageEntrySchema,
  UsageService,
  type UsageSummary,
  UsageSummarySchema,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { type Command, type Input, type Option, UsageError } from "./command.ts";
import { count, dollars, moment, parseMoment } from "./format.ts";
import { allPages } from "./pages.ts";
import type { Session } from "./session.ts";
import { type Column, table } from "./table.ts";
import { outcomes } from "./words.ts";

const dimensions = {
  model: UsageDimension.MODEL,
  key: UsageDimension.KEY,
  project: UsageDimension.PROJECT,
  day: UsageDimension.DAY,
  node: UsageDimension.NODE,
} as const;

const filterOptions: readonly Option[] = [
  { name: "from", value: "TIME", doc: "From then on: 2026-11-21, 2026-11-21T08:00Z or 24h (ago). [the beginning]" },
  { name: "to", value: "TIME", doc: "Before then. [now]" },
  { name: "model", value: "NAME", doc: "Of this model only." },
  { name: "key", value: "KEY_ID", doc: "Of this key only." },
  { name: "project", value: "NAME", doc: "Of this project only." },
];

export const usageCommands: readonly Command[] = [
  {
    path: ["usage"],
    summary: "Add up tokens and costs.",
    options: [
      { name: "by", value: "LIST", doc: `Keep apart by any of ${Object.keys(dimensions).join(",")}. [one total]` },
      ...filterOptions,
    ],
    run: summarize,
  },
  {
    path: ["usage", "calls"],
    summary: "List settled calls, newest first.",
    options: [...filterOptions, { name: "limit", value: "N", doc: "Most calls to list. [50]" }],
    run: calls,
  },
];

async function summarize(input: Input, session: Session): Promise<void> {
  const by = (input.text("by") ?? "")
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
  const groupBy = by.map((word) => {
    const dimension = Object.hasOwn(dimensions, word) ? dimensions[word as keyof typeof dimensions] : undefined;
    if (dimension === undefined) {
      throw new UsageError(
        `--by has "${word}"; it takes a comma-separated list of ${Object.keys(dimensions).join(", ")}.`,
      );
    }
    return dimension;
  });
  const { summaries } = await session.control(UsageService).summarizeUsage({ filter: filter(input, session), groupBy });
  session.printList(UsageSummarySchema, summaries, () => {
    const rows: readonly Row[] = summaries;
    const withTotal = rows.length > 1 && by.length > 0 ? [...rows, total(rows, by.length)] : rows;
    return table(withTotal, [...by.map(groupColumn), ...sumColumns], "No calls in this time.");
  });
}

type Row = Omit<UsageSummary, "$typeName" | "$unknown">;

const groupColumn = (title: string, index: number): Column<Row> => ({ title, cell: (row) => row.group[index] || "-" });

const sumColumns: readonly Column<Row>[] = [
  { title: "calls", right: true, cell: (row) => count(row.calls) },
  { title: "failed", right: true, cell: (row) => count(row.failedCalls) },
  { title: "prompt", right: true, cell: (row) => count(row.promptTokens) },
  { title: "cached", right: true, cell: (row) => count(row.cachedTokens) },
  { title: "completion", right: true, cell: (row) => count(row.completionTokens) },
  { title: "cost", right: true, cell: cost },
];

/** Calls without a price cost something unknown, which is not nothing. */
function cost(row: Row): string {
  if (row.unpricedCalls === 0n) return dollars(row.costNanos);
  if (row.unpricedCalls === row.calls) return "unknown";
  return `${dollars(row.costNanos)} + ${count(row.unpricedCalls)} unpriced`;
}

function total(rows: readonly Row[], groups: number): Row {
  const sum = (value: (row: Row) => bigint) => rows.reduce((so, row) => so + value(row), 0n);
  return {
    group: ["TOTAL", ...Array.from({ length: groups - 1 }, () => " ")],
    calls: sum((row) => row.calls),
    failedCalls: sum((row) => row.failedCalls),
    promptTokens: sum((row) => row.promptTokens),
    cachedTokens: sum((row) => row.cachedTokens),
    completionTokens: sum((row) => row.completionTokens),
    costNanos: sum((row) => row.costNanos),
    unpricedCalls: sum((row) => row.unpricedCalls),
  };
}

async function calls(input: Input, session: Session): Promise<void> {
  const client = session.control(UsageService);
  const wanted = filter(input, session);
  const entries = await allPages(
    async (pageToken, pageSize) => {
      const page = await client.listUsage({ filter: wanted, pageToken, pageSize });
      return { items: page.entries, nextPageToken: page.nextPageToken };
    },
    input.integer("limit") ?? 50,
  );
  session.printList(UsageEntrySchema, entries, () =>
    table(
      entries,
      [
        { title: "started", cell: (e) => moment(e.record?.startedAtMs ?? 0n) },
        { title: "call", cell: (e) => e.record?.callId ?? "-" },
        { title: "model", cell: (e) => e.record?.model || "-" },
        { title: "key", cell: (e) => e.record?.keyId || "-" },
        { title: "door", cell: (e) => e.record?.door || "-" },
        { title: "outcome", cell: (e) => outcomes.word(e.record?.outcome ?? 0) },
        { title: "prompt", right: true, cell: (e) => count(e.record?.usage?.promptTokens ?? 0) },
        { title: "cached", right: true, cell: (e) => count(e.record?.usage?.cachedTokens ?? 0) },
        { title: "completion", right: true, cell: (e) => count(e.record?.usage?.completionTokens ?? 0) },
        { title: "cost", right: true, cell: (e) => (e.costNanos === undefined ? "unknown" : dollars(e.costNanos)) },
        { title: "first token", right: true, cell: (e) => `${e.record?.ttftMs ?? 0n} ms` },
        { title: "took", right: true, cell: (e) => `${e.record?.durationMs ?? 0n} ms` },
      ],
      "No calls in this time.",
    ),
  );
}

function filter(input: Input, session: Session) {
  const nowMs = session.terminal.clock.nowMs();
  const bound = (name: string) => {
    const text = input.text(name);
    return text === undefined ? 0n : parseMoment(`--${name}`, text, nowMs, -1);
  };
  return {
    fromMs: bound("from"),
    toMs: bound("to"),
    keyId: input.text("key") ?? "",
    project: input.text("project") ?? "",
    model: input.text("model") ?? "",
  };
}
