import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Sql, Transaction } from "../store/database.ts";

/** Nano-dollars (1e-9 USD) per token, from a moment on until the next one of the same model. */
export interface Price {
  readonly promptNanosPerToken: bigint;
  readonly cachedNanosPerToken: bigint;
  readonly completionNanosPerToken: bigint;
  /** Unix milliseconds; 0 in `setPrice`: now. */
  readonly effectiveAtMs: number;
}

/** One dollar a token: with it the cost of the largest call there can be (2^32 tokens each way) still fits 63 bits. */
export const largestNanosPerToken = 1_000_000_000n;

/**
 * Adds a price. Usage that is in the ledger keeps its cost, so a price cannot start in the past; one that is set again
 * for the same moment replaces the first.
 */
export async function setPrice(sql: Sql | Transaction, clock: Clock, model: string, price: Price): Promise<Price> {
  const nowMs = clock.nowMs();
  const effectiveAtMs = price.effectiveAtMs || nowMs;
  for (const [field, value] of [
    ["prompt_nanos_per_token", price.promptNanosPerToken],
    ["cached_nanos_per_token", price.cachedNanosPerToken],
    ["completion_nanos_per_token", price.completionNanosPerToken],
  ] as const) {
    if (value >= 0n && value <= largestNanosPerToken) continue;
    throw new MeshError(
      Reason.INVALID_REQUEST,
      `${field} is ${value}; give 0 to ${largestNanosPerToken} nano-dollars.`,
      {
        field: `price.${field}`,
        limit: `${largestNanosPerToken} nano-dollars`,
      },
    );
  }
  if (effectiveAtMs < nowMs) {
    throw new MeshError(
      Reason.INVALID_REQUEST,
      `effective_at_ms ${effectiveAtMs} is past, and usage keeps the price it was made at; give a later moment, or 0 for now.`,
      { field: "price.effective_at_ms" },
    );
  }
  await sql`
    INSERT INTO prices (model, effective_at, prompt_nanos_per_token, cached_nanos_per_token, completion_nanos_per_token, created_at)
    VALUES (${model}, ${sql.types.instant(effectiveAtMs)}, ${price.promptNanosPerToken}, ${price.cachedNanosPerToken},
            ${price.completionNanosPerToken}, ${sql.types.instant(nowMs)})
    ON CONFLICT (model, effective_at) DO UPDATE SET
      prompt_nanos_per_token = excluded.prompt_nanos_per_token,
      cached_nanos_per_token = excluded.cached_nanos_per_token,
      completion_nanos_per_token = excluded.completion_nanos_per_token`;
  return { ...price, effectiveAtMs };
}

/** All prices of some models, oldest first: what `effectivePrice` picks from. */
export async function pricesOf(sql: Sql | Transaction, models: readonly string[]): Promise<Map<string, Price[]>> {
  const rows = await sql<(Price & { model: string })[]>`
    SELECT model, effective_at AS effective_at_ms, prompt_nanos_per_token, cached_nanos_per_token, completion_nanos_per_token
    FROM prices WHERE model = ANY(${sql.array([...new Set(models)])}) ORDER BY model, effective_at`;
  const prices = new Map<string, Price[]>();
  for (const { model, ...price } of rows) {
    const known = prices.get(model);
    if (known) known.push(price);
    else prices.set(model, [price]);
  }
  return prices;
}

/** The price that counts at a moment; undefined when none did yet. `prices` are sorted by effectiveAtMs. */
export function effectivePrice(prices: readonly Price[] | undefined, atMs: number): Price | undefined {
  return prices?.findLast((price) => price.effectiveAtMs <= atMs);
}
