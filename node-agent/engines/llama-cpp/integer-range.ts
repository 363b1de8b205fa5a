const widest = 10n ** 15n - 1n;

/** GBNF that matches exactly the decimal integers from `low` to `high`; undefined ends lie at 15 digits. */
export function integerBetween(low: bigint | undefined, high: bigint | undefined): string | undefined {
  const from = low ?? (high !== undefined && high < -widest ? high : -widest);
  const to = high ?? (low !== undefined && low > widest ? low : widest);
  if (from > to) return undefined;
  const parts: string[] = [];
  if (from < 0n) parts.push(`"-" (${naturals(to < 0n ? -to : 1n, -from)})`);
  if (to >= 0n) parts.push(naturals(from > 0n ? from : 0n, to));
  return parts.join(" | ");
}

/** 0 <= low <= high, by number of digits. */
function naturals(low: bigint, high: bigint): string {
  const alternatives: string[] = [];
  for (let from = low; from <= high;) {
    const longest = 10n ** BigInt(from.toString().length) - 1n;
    const to = longest < high ? longest : high;
    alternatives.push(sameLength(from.toString(), to.toString()));
    from = to + 1n;
  }
  return alternatives.join(" | ");
}

function sameLength(low: string, high: string): string {
  const a = Number(low[0]);
  const b = Number(high[0]);
  const rest = low.length - 1;
  if (rest === 0) return digit(a, b);
  const lowest = "0".repeat(rest);
  const highest = "9".repeat(rest);
  if (low.slice(1) === lowest && high.slice(1) === highest) return `${digit(a, b)} [0-9]{${rest}}`;
  if (a === b) return `${digit(a, a)} (${sameLength(low.slice(1), high.slice(1))})`;
  const parts = [`${digit(a, a)} (${sameLength(low.slice(1), highest)})`];
  if (b - a > 1) parts.push(`${digit(a + 1, b - 1)} [0-9]{${rest}}`);
  parts.push(`${digit(b, b)} (${sameLength(lowest, high.slice(1))})`);
  return parts.join(" | ");
}

function digit(from: number, to: number): string {
  return from === to ? `"${from}"` : `[${from}-${to}]`;
}
