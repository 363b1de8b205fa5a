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
  /** Our value divided by the first peer's must reach (throughput) or stay under (anything else) this; null: no goal. */
  readonly goal: number | null;
  readonly met: boolean | null;
}

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

/** Prints a result as a table and keeps it in `bench/results/NAME.json`. */
export async function publish(name: string, result: Result): Promise<void> {
  console.log(`\n${table(result)}\n`);
  await mkdir(resultsFolder, { recursive: true });
  await writeFile(join(resultsFolder, `${name}.json`), `${JSON.stringify(result, null, 2)}\n`);
  await writeReadmeTables();
}

function table(result: Result): string {
  const peers = [...new Set(result.rows.flatMap((row) => Object.keys(row.peers)))];
  const head = ["case", "metric", "unit", "Helixmesh", ...peers, "ratio", "goal"];
  const lines = result.rows.map((row) => {
    const first = Object.values(row.peers)[0];
    const ratio = first === undefined || first === 0 ? "" : `${rounded(row.ours / first)}`;
    const goal = row.goal === null ? "" : `${row.goal}${row.met ? " met" : " **missed**"}`;
    return [row.case, row.metric, row.unit, row.ours, ...peers.map((peer) => row.peers[peer] ?? ""), ratio, goal];
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

/** Replaces what stands between the markers of bench/README.md by the tables of all results. */
export async function writeReadmeTables(): Promise<void> {
  const names = (await readdir(resultsFolder)).filter((file) => file.endsWith(".json")).toSorted();
  const tables: string[] = [];
  for (const file of names) {
    const result = JSON.parse(await readFile(join(resultsFolder, file), "utf8")) as Result;
    tables.push(`### ${file.replace(/\.json$/, "")}\n\n${table(result)}`);
  }
  const path = join(import.meta.dirname, "README.md");
  const text = await readFile(path, "utf8");
  const marked = /(<!-- results -->\n)[\s\S]*(\n<!-- \/results -->)/;
  if (!marked.test(text)) throw new Error(`${path} has lost its <!-- results --> markers.`);
  await writeFile(
    path,
    text.replace(marked, (_, open: string, close: string) => `${open}\n${tables.join("\n\n")}\n${close}`),
  );
}
