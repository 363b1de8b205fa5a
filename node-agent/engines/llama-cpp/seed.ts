/**
 * The sampler's seed for one draw, from the call's seed and the position of the token in its sequence alone: a call that
 * is continued elsewhere, with its text so far as the prompt, draws on as if it had never moved. Neighbouring seeds and
 * positions must not resemble each other, so every word passes through MurmurHash3's mixing step.
 */
export function seedOfDraw(seed: bigint, position: number): number {
  const low = Number(seed & 0xffff_ffffn);
  const high = Number((seed >> 32n) & 0xffff_ffffn);
  let hash = mix(0x9747b28c, low);
  hash = mix(hash, high);
  hash = mix(hash, position);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function mix(hash: number, word: number): number {
  const scrambled = Math.imul(word, 0xcc9e2d51);
  const turned = hash ^ Math.imul((scrambled << 15) | (scrambled >>> 17), 0x1b873593);
  return (Math.imul((turned << 13) | (turned >>> 19), 5) + 0xe6546b64) | 0;
}
