export interface Column<Row> {
  readonly title: string;
  /** Numbers stand at the right. */
  readonly right?: boolean;
  cell(row: Row): string;
}

/** Aligned columns under upper-case titles; `empty` where there are no rows. No trailing spaces. */
export function table<Row>(rows: readonly Row[], columns: readonly Column<Row>[], empty: string): string {
  if (rows.length === 0) return `${empty}\n`;
  const cells = [
    columns.map((column) => column.title.toUpperCase()),
    ...rows.map((row) => columns.map((c) => c.cell(row))),
  ];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => width(line[index] ?? ""))));
  const lines = cells.map((line) =>
    columns
      .map((column, index) => pad(line[index] ?? "", widths[index] ?? 0, column.right ?? false))
      .join("  ")
      .trimEnd(),
  );
  return `${lines.join("\n")}\n`;
}

/** `name: value` lines of one thing. */
export function details(fields: readonly (readonly [string, string])[]): string {
  const widest = Math.max(...fields.map(([name]) => name.length));
  return fields.map(([name, value]) => `${`${name}:`.padEnd(widest + 1)}  ${value}\n`).join("");
}

function pad(text: string, to: number, right: boolean): string {
  const space = " ".repeat(Math.max(0, to - width(text)));
  return right ? space + text : text + space;
}

/** Code points, not UTF-16 units. */
function width(text: string): number {
  return Array.from(text).length;
}
