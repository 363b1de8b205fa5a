import { DrainRate } from "./drain-rate.ts";
import { FairShare, type Waiter } from "./fair-share.ts";
import { OrderedSet } from "./ordered-set.ts";

/** Priorities of the contract, 0 to 9 (inference.proto); each is a class of its own. */
const levels = 10;

/** An entry is given up when even a queue that drains this many times as fast as measured would come too late. */
const optimism = 2;

export interface QueueBounds {
  readonly maxEntries: number;
  /** Bytes of the waiting requests together. */
  readonly maxBytes: number;
  /** Longest wait while there is something to wait for. */
  readonly maxWaitMs: number;
  /** Time in a class after which an entry moves up to the next. */
  readonly promoteAfterMs: number;
}

/** A call that waits. Times are the monotonic clock's. */
export interface QueueEntry {
  readonly tenant: string;
  /** 0 (background) to 9 (most urgent). */
  readonly priority: number;
  readonly deadlineMs: number;
  /** Shortest time in which it could be answered once it is dispatched. */
  readonly minServiceMs: number;
  readonly bytes: number;
  /** Tokens that its tenant is charged on its turn. */
  readonly promptTokens: number;
}

export type Offer<E> =
  /** `displaced` lost its place to this entry. */
  | { readonly kind: "queued"; readonly displaced: E | undefined }
  /** There is no room: `bound` is reached, and nobody has a worse claim to a place. */
  | { readonly kind: "full"; readonly bound: "entries" | "bytes" }
  /** Its deadline passes before its turn, which is predicted in `waitMs`. */
  | { readonly kind: "too-late"; readonly waitMs: number };

export interface Expired<E> {
  readonly entry: E;
  /** `too-late`: it can no longer meet its deadline. `waited`: it waited `maxWaitMs`. */
  readonly kind: "too-late" | "waited";
}

interface Place<E> extends Waiter {
  readonly entry: E;
  readonly enteredMs: number;
  /** Since when it has been in its class. */
  sinceMs: number;
}

interface Level<E> {
  /** By arrival in the class: whom to promote next. */
  readonly bySince: OrderedSet<Place<E>>;
  /** By the last moment at which a turn would help. */
  readonly byLatest: OrderedSet<Place<E>>;
}

/**
 * Calls that wait for a replica with room, bounded in number, bytes and time. The highest class goes first; in a class
 * tenants share fairly, and a tenant's calls go in order of their deadlines (fair-share.ts). Whoever waited
 * `promoteAfterMs` in a class moves up one, so that nobody waits for ever below a busy class.
 *
 * When it is full, a newcomer takes the place of an entry of the lowest class, or in its own class of a tenant that holds
 * more places: no tenant and no class can lock the others out. An entry leaves as soon as it cannot meet its deadline.
 * Pure: callers bring the time and call `expire` at `nextMs`. Every operation is O(log n) for each entry that it moves.
 */
export class Queue<E extends QueueEntry> {
  readonly #bounds: QueueBounds;
  readonly #places = new Map<E, Place<E>>();
  readonly #share = new FairShare<Place<E>>(levels);
  readonly #levels: readonly Level<E>[] = Array.from({ length: levels }, () => ({
    bySince: new OrderedSet<Place<E>>((a, b) => a.sinceMs - b.sinceMs || a.number - b.number),
    byLatest: new OrderedSet<Place<E>>((a, b) => latestMs(a) - latestMs(b) || a.number - b.number),
  }));
  readonly #byEntered = new OrderedSet<Place<E>>((a, b) => a.number - b.number);
  readonly #drain = new DrainRate();
  /** Since when a ready replica has been there to wait for; undefined while there is none. */
  #openMs: number | undefined;
  #arrivals = 0;
  #bytes = 0;
  promotions = 0;

  constructor(bounds: QueueBounds) {
    this.#bounds = bounds;
  }

  get size(): number {
    return this.#places.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Whether replicas are ready, though full. While none is, neither waits nor the drain rate count. */
  setOpen(open: boolean, nowMs: number): void {
    if (open !== (this.#openMs !== undefined)) this.#openMs = open ? nowMs : undefined;
    this.#measure(nowMs);
  }

  offer(entry: E, nowMs: number): Offer<E> {
    this.#promote(nowMs);
    const level = Math.min(levels - 1, entry.priority);
    const bound = this.#boundReached(entry.bytes);
    const displaced = bound && this.#victim(level, entry);
    if (bound && !displaced) return { kind: "full", bound };
    const number = this.#arrivals++;
    const { tenant, deadlineMs } = entry;
    const place = { entry, number, tenant, deadlineMs, level, enteredMs: nowMs, sinceMs: nowMs };
    this.#add(place);
    const waitMs = this.#predictMs(place, nowMs);
    if (nowMs + waitMs > latestMs(place)) {
      this.#remove(place);
      return { kind: "too-late", waitMs: waitMs * optimism };
    }
    if (displaced) this.#remove(displaced);
    this.#measure(nowMs);
    return { kind: "queued", displaced: displaced?.entry };
  }

  /** Whose turn it is now; it leaves, and its tenant is charged for its prompt. */
  take(nowMs: number): E | undefined {
    this.#promote(nowMs);
    for (let level = levels - 1; level >= 0; level--) {
      const place = this.#share.next(level);
      if (!place) continue;
      this.#drain.turn(nowMs);
      this.#remove(place);
      this.#share.charge(place.tenant, place.entry.promptTokens);
      this.#measure(nowMs);
      return place.entry;
    }
    return undefined;
  }

  /** The entry waits no longer. False when it had left already. */
  leave(entry: E, nowMs: number): boolean {
    const place = this.#places.get(entry);
    if (!place) return false;
    this.#remove(place);
    this.#measure(nowMs);
    return true;
  }

  /** Tokens of a call that was served, whether or not it had to wait. */
  charge(tenant: string, tokens: number): void {
    this.#share.charge(tenant, tokens);
  }

  /**
   * Takes out what waited too long or cannot meet its deadline any more. A class is looked at from its most pressing
   * entry on, until one can still make it; what waits behind in a longer lane is found when it becomes the most pressing.
   */
  expire(nowMs: number): Expired<E>[] {
    this.#promote(nowMs);
    const expired: Expired<E>[] = [];
    for (const { byLatest } of this.#levels) {
      for (;;) {
        const place = byLatest.first();
        if (!place || nowMs + this.#predictMs(place, nowMs) < latestMs(place)) break;
        this.#remove(place);
        expired.push({ entry: place.entry, kind: "too-late" });
      }
    }
    for (;;) {
      const place = this.#byEntered.first();
      if (!place || this.#waitEndsMs(place) > nowMs) break;
      this.#remove(place);
      expired.push({ entry: place.entry, kind: "waited" });
    }
    this.#measure(nowMs);
    return expired;
  }

  /** When `expire` has something to do at the latest, unless something happens before; undefined when never. */
  nextMs(nowMs: number): number | undefined {
    let next = Number.POSITIVE_INFINITY;
    for (const { byLatest } of this.#levels) {
      const place = byLatest.first();
      if (place) next = Math.min(next, latestMs(place) - this.#predictMs(place, nowMs));
    }
    const oldest = this.#byEntered.first();
    if (oldest) next = Math.min(next, this.#waitEndsMs(oldest));
    return next === Number.POSITIVE_INFINITY ? undefined : next;
  }

  /**
   * Until all who wait now are gone: by their turns, as fast as the queue drained lately, or because they waited too long.
   * Undefined before the first turn.
   */
  drainMs(nowMs: number): number | undefined {
    const intervalMs = this.#drain.intervalMs(nowMs);
    if (intervalMs === undefined) return undefined;
    const turnsMs = intervalMs * (this.size + 1);
    const { maxWaitMs } = this.#bounds;
    return this.#openMs === undefined ? turnsMs : Math.min(turnsMs, Math.max(maxWaitMs, intervalMs));
  }

  /** About how many have their turn before it if nobody else comes (see FairShare.ahead); undefined when it has left. */
  ahead(entry: E): number | undefined {
    const place = this.#places.get(entry);
    return place && this.#aheadOf(place);
  }

  #aheadOf(place: Place<E>): number {
    let ahead = this.#share.ahead(place);
    for (let level = place.level + 1; level < levels; level++) ahead += this.#share.count(level);
    return ahead;
  }

  /** Milliseconds until its turn if the queue drains `optimism` times as fast as measured; 0 while nothing is known. */
  #predictMs(place: Place<E>, nowMs: number): number {
    const intervalMs = this.#openMs === undefined ? undefined : this.#drain.intervalMs(nowMs);
    return intervalMs === undefined ? 0 : (this.#aheadOf(place) * intervalMs) / optimism;
  }

  #boundReached(bytes: number): "entries" | "bytes" | undefined {
    if (this.#bytes + bytes > this.#bounds.maxBytes) return "bytes";
    return this.size >= this.#bounds.maxEntries ? "entries" : undefined;
  }

  /** Who has to make room for `entry`, if there is one whose place is enough. */
  #victim(level: number, entry: E): Place<E> | undefined {
    const lowest = this.#levels.findIndex(({ bySince }) => bySince.size > 0);
    if (lowest < 0 || lowest > level) return undefined;
    const victim = this.#share.mostExpendable(lowest);
    if (!victim || this.#bytes - victim.entry.bytes + entry.bytes > this.#bounds.maxBytes) return undefined;
    if (lowest < level) return victim;
    const held = this.#share.countOf(victim.tenant, lowest);
    return held > this.#share.countOf(entry.tenant, lowest) + 1 ? victim : undefined;
  }

  /** From the lowest class up, so that who was overlooked for long moves up several. */
  #promote(nowMs: number): void {
    if (this.#openMs === undefined) return;
    for (const [level, { bySince, byLatest }] of this.#levels.entries()) {
      const above = this.#levels[level + 1];
      if (!above) return;
      for (;;) {
        const place = bySince.first();
        const dueMs = Math.max(place?.sinceMs ?? 0, this.#openMs) + this.#bounds.promoteAfterMs;
        if (!place || dueMs > nowMs) break;
        bySince.delete(place);
        byLatest.delete(place);
        place.sinceMs = dueMs;
        this.#share.move(place, level + 1);
        above.bySince.add(place);
        above.byLatest.add(place);
        this.promotions += 1;
      }
    }
  }

  #add(place: Place<E>): void {
    this.#places.set(place.entry, place);
    this.#bytes += place.entry.bytes;
    this.#byEntered.add(place);
    this.#share.add(place);
    this.#levels[place.level]?.bySince.add(place);
    this.#levels[place.level]?.byLatest.add(place);
  }

  #remove(place: Place<E>): void {
    this.#places.delete(place.entry);
    this.#bytes -= place.entry.bytes;
    this.#byEntered.delete(place);
    this.#share.remove(place);
    this.#levels[place.level]?.bySince.delete(place);
    this.#levels[place.level]?.byLatest.delete(place);
  }

  #waitEndsMs(place: Place<E>): number {
    if (this.#openMs === undefined) return Number.POSITIVE_INFINITY;
    return Math.max(place.enteredMs, this.#openMs) + this.#bounds.maxWaitMs;
  }

  #measure(nowMs: number): void {
    this.#drain.backlog(this.size > 0 && this.#openMs !== undefined, nowMs);
  }
}

/** After this moment a turn would come too late. */
function latestMs(place: Place<QueueEntry>): number {
  return place.deadlineMs - place.entry.minServiceMs;
}
