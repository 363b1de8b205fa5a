import type { Plan } from "./plan.ts";

/** What is to know of a lane of the KV cache. */
export interface BatchLane {
  readonly index: number;
  /** Tokens known, and of these those in the KV cache. */
  readonly length: number;
  readonly evaluated: number;
  /** No further token has room. */
  readonly isFull: boolean;
  readonly sequence: { readonly plan: Pick<Plan, "exact" | "promptTokens"> } | undefined;
}

/** What one decode step evaluates. */
export interface Batch<Lane extends BatchLane> {
  /** The next `count` tokens of each lane, lanes in order. */
  readonly parts: readonly { readonly lane: Lane; readonly count: number }[];
  /** Lanes that evaluate one token for the sake of a neighbour and forget it again. */
  readonly padding: readonly Lane[];
  /** Of `parts`, tokens that belong to prompts. */
  readonly prefillTokens: number;
  /** The batch is a block of an exact sequence's prompt, alone. */
  readonly exactBlock: boolean;
}

/** Tokens of a block of an exact sequence's prompt; its cache is reused in whole blocks. */
export const exactBlockTokens = 64;

/**
 * Chooses what the next step evaluates: one token of each running sequence and, in what room is left, the next parts of
 * prompts, in the order of their lanes.
 *
 * llama.cpp multiplies with other kernels for one row than for several, and attends by blocks of rows, so the shape of
 * a batch moves the last bits of its logits; that is enough to turn one seeded draw in a few hundred. An exact sequence
 * is therefore evaluated in shapes that follow from its own tokens alone, whatever is cached and whoever else runs:
 *
 * - its prompt in blocks cut at multiples of `exactBlockTokens`, each alone in its batch, every other step where others
 *   have work (`afterBlock`);
 * - each token behind its prompt by itself, also those that another engine generated, and never as the only row: lanes
 *   that touch are computed together, so a lane without a neighbour in the batch gets one that only pads.
 */
export function nextBatch<Lane extends BatchLane>(
  lanes: readonly Lane[],
  batchTokens: number,
  afterBlock: boolean,
): Batch<Lane> {
  const busy = lanes.filter((lane) => lane.sequence);
  const blocked = busy.filter((lane) => inExactPrompt(lane));
  const others = blocked.length === 0 ? busy : busy.filter((lane) => !blocked.includes(lane));
  const next = blocked[0];
  if (next && (!afterBlock || others.length === 0)) {
    const { evaluated } = next;
    const end = evaluated - (evaluated % exactBlockTokens) + exactBlockTokens;
    const count = Math.min(end, next.sequence?.plan.promptTokens.length ?? 0) - evaluated;
    return { parts: [{ lane: next, count }], padding: [], prefillTokens: count, exactBlock: true };
  }
  const single = (lane: Lane): boolean => lane.length - lane.evaluated === 1 || isExact(lane);
  let room = batchTokens - others.filter(single).length;
  let prefillTokens = 0;
  const parts: { lane: Lane; count: number }[] = [];
  for (const lane of others) {
    const count = single(lane) ? 1 : Math.min(lane.length - lane.evaluated, room);
    if (count === 0) continue;
    parts.push({ lane, count });
    if (single(lane)) continue;
    room -= count;
    prefillTokens += count;
  }
  return { parts, padding: paddingFor(parts, lanes), prefillTokens, exactBlock: false };
}

function isExact({ sequence }: BatchLane): boolean {
  return sequence?.plan.exact === true;
}

function inExactPrompt(lane: BatchLane): boolean {
  return isExact(lane) && lane.evaluated < (lane.sequence?.plan.promptTokens.length ?? 0);
}

/** A neighbour for each exact lane that has none in the batch; an engine with one lane never has any. */
function paddingFor<Lane extends BatchLane>(parts: Batch<Lane>["parts"], lanes: readonly Lane[]): Lane[] {
  const padding: Lane[] = [];
  if (!parts.some(({ lane }) => isExact(lane))) return padding;
  const taken = new Set(parts.map(({ lane }) => lane.index));
  for (const { lane } of parts) {
    if (!isExact(lane) || taken.has(lane.index - 1) || taken.has(lane.index + 1)) continue;
    const free = [lanes[lane.index + 1], lanes[lane.index - 1]].find((other) => other && !other.isFull);
    if (!free) continue;
    taken.add(free.index);
    padding.push(free);
  }
  return padding;
}
