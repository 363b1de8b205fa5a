import { HashRing } from "./hash-ring.ts";
import { type Need, lacking } from "./need.ts";
import { DeploymentRates } from "./rates.ts";
import { ReadySet } from "./ready-set.ts";
import type { Replica } from "./replica.ts";

/** The replicas of one deployment that take calls, kept current as they change and never searched for a call. */
export class DeploymentPool {
  readonly rates = new DeploymentRates();
  /** Picks so far. */
  turn = 0;
  /** By what their engines can do: one, unless a deployment runs different engines. */
  readonly #sets = new Map<number, ReadySet>();
  /** Made when something is hashed for the first time. */
  #ring: HashRing<Replica> | undefined;
  #swept = 0;
  readonly #hidden = new Set<Replica>();

  /** The replica takes calls now; also when what it can do has changed. */
  admit(replica: Replica): void {
    if (replica.set?.able === replica.able) return;
    if (replica.set) replica.set.remove(replica);
    else this.#ring?.add(replica);
    this.#setOf(replica.able).add(replica);
  }

  /** The replica takes no calls. */
  dismiss(replica: Replica): void {
    if (!replica.set) return;
    replica.set.remove(replica);
    this.#ring?.remove(replica);
  }

  /** As if the replica were not there, until `show`; for one pick. */
  hide(replica: Replica): void {
    replica.set?.remove(replica);
    this.#hidden.add(replica);
  }

  show(replica: Replica): void {
    this.#hidden.delete(replica);
    this.#setOf(replica.able).add(replica);
  }

  /** Those that can do all of `bits`, none of them empty. */
  able(bits: number): readonly ReadySet[] {
    const sets: ReadySet[] = [];
    for (const set of this.#sets.values()) if (set.size > 0 && (set.able & bits) === bits) sets.push(set);
    return sets;
  }

  /** A need that the ready replicas lack; undefined when none is ready. */
  lacks(needs: readonly Need[]): Need | undefined {
    for (const set of this.#sets.values()) {
      const need = set.size > 0 ? lacking(set.able, needs) : undefined;
      if (need) return need;
    }
    return undefined;
  }

  /** Calls `look` for `count` of the ready replicas, each in turn. */
  sweep(count: number, look: (replica: Replica) => void): void {
    for (const set of this.#sets.values()) {
      for (let i = 0; i < Math.min(count, set.size); i++) look(set.at(this.#swept++ % set.size));
    }
  }

  get ring(): HashRing<Replica> {
    if (!this.#ring) {
      this.#ring = new HashRing();
      for (const set of this.#sets.values()) for (let i = 0; i < set.size; i++) this.#ring.add(set.at(i));
      for (const replica of this.#hidden) this.#ring.add(replica);
    }
    return this.#ring;
  }

  #setOf(able: number): ReadySet {
    let set = this.#sets.get(able);
    if (!set) this.#sets.set(able, (set = new ReadySet(able)));
    return set;
  }
}
