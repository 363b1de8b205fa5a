import { type GenerateRequest } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { promptBlocks } from "#kernel/prompt-blocks.ts";
import { PrefixChanges, type PrefixNews, type PrefixOptions } from "../prefix-news.ts";

const none = new Uint32Array(0);

/** Which prompt prefixes the lanes of the KV cache hold. Each lane may hold its share of the most; the rest is left out. */
export class LanePrefixes {
  readonly #blockBytes: number;
  readonly #mostPerLane: number;
  readonly #lanes: Uint32Array[];
  /** In how many lanes a prefix is. */
  readonly #counts = new Map<number, number>();
  readonly #changes = new PrefixChanges();

  constructor(lanes: number, { blockBytes, maxBlocks }: PrefixOptions) {
    this.#blockBytes = blockBytes;
    this.#mostPerLane = Math.floor(maxBlocks / lanes);
    this.#lanes = Array.from({ length: lanes }, () => none);
  }

  /** The blocks of a request's prompt, as many as one lane may hold. */
  blocks(request: GenerateRequest): Uint32Array {
    const blocks = promptBlocks(request, this.#blockBytes, this.#mostPerLane + 1);
    if (blocks.length <= this.#mostPerLane) return blocks;
    this.#changes.noteCut();
    return blocks.subarray(0, this.#mostPerLane);
  }

  /** The lane holds the first `held` of a prompt's `tokens` tokens: the blocks in proportion, since bytes are not tokens. */
  set(lane: number, blocks: Uint32Array, held: number, tokens: number): void {
    const now = blocks.subarray(0, Math.floor((blocks.length * held) / tokens));
    const before = this.#lanes[lane] ?? none;
    this.#lanes[lane] = now;
    for (const hash of now) {
      const count = this.#counts.get(hash) ?? 0;
      this.#counts.set(hash, count + 1);
      if (count === 0) this.#changes.add(hash);
    }
    for (const hash of before) {
      const count = (this.#counts.get(hash) ?? 0) - 1;
      if (count > 0) this.#counts.set(hash, count);
      else if (this.#counts.delete(hash)) this.#changes.remove(hash);
    }
  }

  take(): PrefixNews | undefined {
    return this.#changes.take();
  }
}
