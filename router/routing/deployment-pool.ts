import type { Room } from "./fill.ts";
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
  /** One for what engines can do, of which a deployment rarely has several, and for the router's own zone or not. */
  readonly #sets: ReadySet[] = [];
  /** Made when something is hashed for the first time. */
  #ring: HashRing<Replica> | undefined;
  #swept = 0;
  readonly #hidden = new Set<Replica>();

  /** The replica takes calls now; also when what it can do has changed. */
  admit(replica: Replica): void {
    if (replica.set?.able === replica.able && replica.set.near === replica.near) return;
    if (replica.set) replica.set.remove(replica);
    else this.#ring?.add(replica);
    this.#setOf(replica).add(replica);
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
    this.#setOf(replica).add(replica);
  }

  /** Those that can do all of `bits`, none of them empty. */
  able(bits: number): readonly ReadySet[] {
    return this.#sets.filter((set) => set.size > 0 && (set.able & bits) === bits);
  }

  canTake(bits: number): boolean {
    return this.#sets.some((set) => set.size > 0 && (set.able & bits) === bits);
  }

  /**
   * Whether one of them has room, whatever it can do; "cold" where none is ready. `refresh` reads a replica's newest
   * load: of those that seem to have room until one has it, so each that does not is read once and then known to be
   * full, and nobody is looked at while all are known to be.
   */
  room(refresh: (replica: Replica) => void): Room {
    let room: Room = "cold";
    for (const set of this.#sets) {
      if (set.size === 0) continue;
      room = "busy";
      while (set.hasRoom) {
        const replica = set.emptiest();
        refresh(replica);
        if (replica.fill !== "full") return "free";
      }
    }
    return room;
  }

  /** A need that the ready replicas lack; undefined when none is ready. */
  lacks(needs: readonly Need[]): Need | undefined {
    for (const set of this.#sets) {
      const need = set.size > 0 ? lacking(set.able, needs) : undefined;
      if (need) return need;
    }
    return undefined;
  }

  /** Calls `look` for `count` of the ready replicas, each in turn. */
  sweep(count: number, look: (replica: Replica) => void): void {
    for (const set of this.#sets) {
      for (let i = 0; i < Math.min(count, set.size); i++) look(set.at(this.#swept++ % set.size));
    }
  }

  get ring(): HashRing<Replica> {
    if (!this.#ring) {
      this.#ring = new HashRing();
      for (const set of this.#sets) for (let i = 0; i < set.size; i++) this.#ring.add(set.at(i));
      for (const replica of this.#hidden) this.#ring.add(replica);
    }
    return this.#ring;
  }

  #setOf({ able, near }: Replica): ReadySet {
    let set = this.#sets.find((one) => one.able === able && one.near === near);
    if (!set) this.#sets.push((set = new ReadySet(able, near)));
    return set;
  }
}
