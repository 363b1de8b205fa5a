import { hashText, mix32 } from "./hash.ts";

/** Places of one replica: enough that shares differ by a fifth or so, which bounded loads even out. */
const placesPerReplica = 32;
/** The ring in sections, so that a change moves a section's places and not all of them. */
const sectionBits = 10;
const sectionCount = 1 << sectionBits;

interface Place<T> {
  readonly hash: number;
  readonly item: T;
}

/** Consistent hashing: a function of who is on it alone, so that all routers agree without a word. */
export class HashRing<T extends { readonly replicaId: string }> {
  readonly #sections: Place<T>[][] = Array.from({ length: sectionCount }, () => []);

  add(item: T): void {
    for (const hash of placesOf(item)) {
      const section = this.#section(hash >>> (32 - sectionBits));
      const place = { hash, item };
      const index = section.findIndex((other) => isBefore(place, other));
      section.splice(index === -1 ? section.length : index, 0, place);
    }
  }

  remove(item: T): void {
    for (const hash of placesOf(item)) {
      const section = this.#section(hash >>> (32 - sectionBits));
      const index = section.findIndex((place) => place.hash === hash && place.item === item);
      if (index !== -1) section.splice(index, 1);
    }
  }

  /** Clockwise from `key`, once around; one with several places comes several times. */
  *from(key: number): Generator<T> {
    const first = key >>> (32 - sectionBits);
    for (let step = 0; step <= sectionCount; step++) {
      for (const { hash, item } of this.#section((first + step) % sectionCount)) {
        // The first section comes again at the end, for what lies before the key.
        if (step === 0 && hash < key) continue;
        if (step === sectionCount && hash >= key) return;
        yield item;
      }
    }
  }

  #section(index: number): Place<T>[] {
    return this.#sections[index] ?? [];
  }
}

function placesOf({ replicaId }: { readonly replicaId: string }): number[] {
  const seed = hashText(replicaId);
  return Array.from({ length: placesPerReplica }, (_, place) => mix32(seed + Math.imul(place, 0x9e3779b9)));
}

function isBefore<T extends { readonly replicaId: string }>(a: Place<T>, b: Place<T>): boolean {
  return a.hash < b.hash || (a.hash === b.hash && a.item.replicaId < b.item.replicaId);
}
