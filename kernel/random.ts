import { randomFillSync } from "node:crypto";

/** The only door to chance. Not for secrets: those take `node:crypto` directly. */
export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
}

export const systemRandom: Random = { next: () => Math.random() };

/** Uniform integer in [0, below). */
export function randomInt(random: Random, below: number): number {
  return Math.floor(random.next() * below);
}

/** The same sequence for the same seed on every machine (mulberry32). */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return {
    next() {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = state;
      t = Math.imul(t ^ (t >>> 15), t | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
    },
  };
}

const idBytes = 16;
/** Randomness for many ids at once: the system call for one costs more than all the rest of it. */
const idPool = Buffer.alloc(256 * idBytes);
let idPoolUsed = idPool.length;

/** 128 random bits as 32 hex digits behind a prefix, such as `call_9f…`. Unguessable, so safe as a public name. */
export function newId(prefix: string): string {
  if (idPoolUsed === idPool.length) {
    randomFillSync(idPool);
    idPoolUsed = 0;
  }
  const from = idPoolUsed;
  idPoolUsed += idBytes;
  return `${prefix}_${idPool.toString("hex", from, idPoolUsed)}`;
}
