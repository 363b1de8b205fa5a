import { UsageError } from "./command.ts";

/** 1234567 → "1,234,567": every digit is there, and readable. */
export function count(value: bigint | number): string {
  return value.toString().replace(/\B(?=(\d{3})+$)/g, ",");
}

/** Nano-dollars as dollars, exact: 1234 → "$0.000001234", at least two decimals. */
export function dollars(nanos: bigint): string {
  const whole = nanos / 1_000_000_000n;
  const fraction = (nanos % 1_000_000_000n)
    .toString()
    .padStart(9, "0")
    .replace(/0{1,7}$/, "");
  return `$${count(whole)}.${fraction}`;
}

/** Nano-dollars a token as dollars a million tokens, exact: 50 → "$0.05/M". */
export function pricePerMillion(nanosPerToken: bigint): string {
  return `${dollars(nanosPerToken * 1_000_000n)}/M`;
}

/** "0.05" dollars a million tokens → 50 nano-dollars a token, with no float on the way. */
export function parsePricePerMillion(field: string, text: string): bigint {
  const match = /^\$?(\d{1,9})(?:\.(\d{1,3}))?$/.exec(text);
  if (!match) {
    throw new UsageError(
      `${field} is "${text}"; it must be dollars per million tokens, such as 0.25 (three decimals at most).`,
    );
  }
  return BigInt(match[1] ?? "0") * 1_000n + BigInt((match[2] ?? "").padEnd(3, "0"));
}

/** Bytes in binary units: 1536 → "1.5 KiB". */
export function bytes(value: bigint): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let size = Number(value);
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

/** Unix milliseconds as UTC to the second; "-" for 0, which the API uses for never. */
export function moment(unixMs: bigint): string {
  if (unixMs === 0n) return "-";
  return `${new Date(Number(unixMs)).toISOString().slice(0, 19).replace("T", " ")}Z`;
}

/** How long ago, one unit: "12 s", "3 min", "5 h", "2 d". */
export function ago(unixMs: bigint, nowMs: number): string {
  if (unixMs === 0n) return "never";
  const seconds = Math.max(0, Math.round((nowMs - Number(unixMs)) / 1_000));
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h ago`;
  return `${Math.round(seconds / 86_400)} d ago`;
}

const unitMs: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** "2026-11-21", "2026-11-21T08:00Z" (UTC unless it says otherwise) or a span such as "24h", counted by `sign` from now. */
export function parseMoment(field: string, text: string, nowMs: number, sign: 1 | -1): bigint {
  const span = /^(\d{1,6})([smhd])$/.exec(text);
  const unit = unitMs[span?.[2] ?? ""];
  if (span && unit !== undefined) return BigInt(Math.round(nowMs + sign * Number(span[1]) * unit));
  const date = /^\d{4}-\d\d-\d\d$/.test(text) || /(Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`;
  const unixMs = /^\d{4}-/.test(text) ? Date.parse(date) : Number.NaN;
  if (Number.isNaN(unixMs) || unixMs < 0) {
    throw new UsageError(
      `${field} is "${text}"; it must be a date (2026-11-21), a time (2026-11-21T08:00Z) or a span (24h, 7d).`,
    );
  }
  return BigInt(unixMs);
}
