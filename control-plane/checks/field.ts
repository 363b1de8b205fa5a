import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/** The field at fault, what is wrong with it, and the limit if one was exceeded. */
export function invalid(field: string, problem: string, limit?: string): MeshError {
  return new MeshError(
    Reason.INVALID_REQUEST,
    `${field} ${problem}`,
    limit === undefined ? { field } : { field, limit },
  );
}

/** A sub-message that must be there. */
export function checkPresent<T>(field: string, value: T | undefined): T {
  if (value === undefined) throw invalid(field, "is missing");
  return value;
}

export function checkText(
  field: string,
  value: string,
  { min = 0, max, pattern, allowed }: { min?: number; max: number; pattern?: RegExp; allowed?: string },
): string {
  if (value.length < min)
    throw invalid(field, min === 1 ? "must not be empty" : `must have at least ${min} characters`);
  if (value.length > max) throw invalid(field, `has ${value.length} characters; at most ${max}`, `${max} characters`);
  if (value.includes("\0")) throw invalid(field, "contains a zero character");
  if (pattern && !pattern.test(value))
    throw invalid(field, `is ${quote(value)}; it takes ${allowed ?? "other characters"}`);
  return value;
}

export function checkRange(field: string, value: number | bigint, max: number, unit = ""): number {
  if (value > max) {
    const limit = unit === "" ? String(max) : `${max} ${unit}`;
    throw invalid(field, `is ${value}; at most ${limit}`, limit);
  }
  return Number(value);
}

/** 9999-12-31, the last day that PostgreSQL and JavaScript write alike. */
const latestInstantMs = 253_402_300_799_999;

/** Unix milliseconds. */
export function checkInstant(field: string, ms: bigint): number {
  return checkRange(field, ms, latestInstantMs, "milliseconds since 1970");
}

export function checkMap(
  field: string,
  map: Readonly<Record<string, string>>,
  { entries, keyLength, valueLength }: { entries: number; keyLength: number; valueLength: number },
): Record<string, string> {
  const all = Object.entries(map);
  if (all.length > entries) throw invalid(field, `has ${all.length} entries; at most ${entries}`, `${entries} entries`);
  for (const [key, value] of all) {
    checkText(`a key of ${field}`, key, { min: 1, max: keyLength });
    checkText(`${field}[${quote(key)}]`, value, { max: valueLength });
  }
  return Object.fromEntries(all);
}

export function checkCount(field: string, list: readonly unknown[], max: number): void {
  if (list.length > max) throw invalid(field, `has ${list.length} entries; at most ${max}`, `${max} entries`);
}

/** Shortened, so that an error cannot carry a megabyte back. */
export function quote(text: string): string {
  return JSON.stringify(text.length <= 80 ? text : `${text.slice(0, 80)}…`);
}
