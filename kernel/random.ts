import { randomFillSync } from "node:crypto";
import { invariant } from "#kernel/invariant.ts";

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

const hexDigits = Buffer.from("0123456789abcdef");
const underscore = 0x5f;
const longestPrefix = 31;
/** An id while it is put together. */
const scratch = Buffer.alloc(longestPrefix + 1 + 2 * idBytes);

/**
 * 128 random bits as 32 hex digits behind a prefix, such as `call_9f…`. Unguessable, so safe as a public name. The text is
 * in one piece: a call's id is read character by character more often than it is made.
 */
export function newId(prefix: string): string {
  if (idPoolUsed === idPool.length) {
    randomFillSync(idPool);
    idPoolUsed = 0;
  }
  invariant(prefix.length <= longestPrefix, `an id's prefix has at most ${longestPrefix} characters`);
  let at = 0;
  for (; at < prefix.length; at++) scratch[at] = prefix.charCodeAt(at);
  scratch[at++] = underscore;
  for (const end = idPoolUsed + idBytes; idPoolUsed < end; idPoolUsed++) {
    const byte = idPool[idPoolUsed] as number;
    scratch[at++] = hexDigits[byte >> 4] as number;
    scratch[at++] = hexDigits[byte & 15] as number;
  }
  return scratch.toString("latin1", 0, at);
}
