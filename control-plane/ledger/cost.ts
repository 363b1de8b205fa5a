import type { Price } from "../prices/prices.ts";

/** Tokens as the ledger holds them; cachedTokens at most promptTokens. */
export interface TokenCounts {
  readonly promptTokens: bigint;
  readonly cachedTokens: bigint;
  readonly completionTokens: bigint;
}

/** Exact, in nano-dollars: prompt tokens not in the cache, those in it, and generated ones, each at its own price. */
export function costNanos(tokens: TokenCounts, price: Price): bigint {
  return (
    (tokens.promptTokens - tokens.cachedTokens) * price.promptNanosPerToken +
    tokens.cachedTokens * price.cachedNanosPerToken +
    tokens.completionTokens * price.completionNanosPerToken
  );
}
