import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import { join } from "node:path";

const resultsFolder = join(import.meta.dirname, "results");

export interface Row {
  /** What was loaded how, such as `16 clients`. */
  readonly case: string;
  readonly metric: string;
  readonly unit: string;
  readonly ours: number;
  readonly peers: Readonly<Record<string, number>>;
  /** In the row's unit: what our value must reach where more is better, and not exceed elsewhere; null: no goal. */
  readonly goal: number | null;
  readonly met: boolean | null;
  /** Lowest and highest of the repeats, by contestant; ours is `Helixmesh`. */
  readonly spread?: Readonly<Record<string, readonly [number, number]>>;
}

/** Our name among the contestants. */
export const ourName = "Helixmesh";

export interface Result {
  readonly question: string;
  readonly setup: string;
  readonly rows: readonly Row[];
}

/** Machine, kernel's view of it and Node, for every result's setup. */
export function machine(): string {
  return `${cpus().length} × ${cpus()[0]?.model ?? "unknown processor"}, Node ${process.versions.node}`;
}

/** A number with three significant digits, enough for a noisy machine. */
export function rounded(value: number): number {
  return Number(value.toPrecision(3));
}

export function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export function median(values: readonly number[]): number {
  return percentile(
    values.toSorted((a, b) => a - b),
    0.5,
  );
}

/** Prints a result as a table. */
export function show(result: Result): void {
  console.log(`\n${table(result)}\n`);
}

/** Prints a result and keeps it in `bench/results/NAME.json`. */
export async function publish(name: string, result: Result): Promise<void> {
  show(result);
  await mkdir(resultsFolder, { recursive: true });
  await writeFile(join(resultsFolder, `${name}.json`), `${JSON.stringify(result, null, 2)}\n`);
  await writeReadmeTables();
}

/** A row's figures are followed by the spread of the repeats and, for peers, by our value ÷ theirs. */
function table(result: Result): string {
  const peers = [...new Set(result.rows.flatMap((row) => Object.keys(row.peers)))];
  const head = ["case", "metric", "unit", ourName, ...peers, "goal"];
  const lines = result.rows.map((row) => {
    const goal = row.goal === null ? "" : `${row.goal}${row.met === true ? " met" : " **missed**"}`;
    const ours = `${row.ours}${spreadText(row, ourName)}`;
    return [row.case, row.metric, row.unit, ours, ...peers.map((peer) => peerText(row, peer)), goal];
  });
  const rule = head.map(() => "---");
  return [
    `**${result.question}**`,
    "",
    result.setup,
    "",
    ...[head, rule, ...lines].map((cells) => `| ${cells.join(" | ")} |`),
  ].join("\n");
}

function peerText(row: Row, peer: string): string {
  const value = row.peers[peer];
  if (value === undefined) return "";
  const ratio = value > 0 ? `, ×${rounded(row.ours / value)}` : "";
  return `${value}${spreadText(row, peer)}${ratio}`;
}

function spreadText(row: Row, name: string): string {
  const spread = row.spread?.[name];
  return spread === undefined ? "" : ` (${spread[0]}–${spread[1]})`;
}

/** Replaces what stands between the markers of bench/README.md by the tables of all results. */
export async function writeReadmeTables(): Promise<void> {
  const names = (await readdir(resultsFolder)).filter((file) => file.endsWith(".json")).toSorted();
  const tables: string[] = [];
  for (const file of names) {
    const result = JSON.parse(await readFile(join(resultsFolder, file), "utf8")) as Result;
    tables.push(`### ${file.replace(/\.json$/, "")}\n\n${table(result)}`);
  }
  const path = join(import.meta.dirname, "README.md");
  await writeFile(path, withTables(await readFile(path, "utf8"), tables));
}

/** @throws Error when the text has no markers */
export function withTables(text: string, tables: readonly string[]): string {
  const open = "<!-- results -->\n";
  const start = text.indexOf(open) + open.length;
  const end = text.indexOf("<!-- /results -->", start);
  if (start < open.length || end < 0) throw new Error("bench/README.md has lost its <!-- results --> markers.");
  const between = tables.map((one) => `\n${one}\n`).join("");
  return `${text.slice(0, start)}${between}${between === "" ? "" : "\n"}${text.slice(end)}`;
}
