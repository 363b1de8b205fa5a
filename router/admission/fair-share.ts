import { invariant } from "#kernel/invariant.ts";
import { OrderedSet } from "./ordered-set.ts";

/** What is shared out: one waiting call as the fair share sees it. */
export interface Waiter {
  /** Unique, in order of arrival; breaks ties. */
  readonly number: number;
  readonly tenant: string;
  readonly deadlineMs: number;
  /** Its class, from 0; changed by `move` alone. */
  level: number;
}

interface Account<W> {
  readonly tenant: string;
  /** Tokens served to the tenant, lifted to what its rivals had whenever it comes back from idleness. */
  counter: number;
  /** Tokens charged and not yet in `counter`, since that moves the tenant in every order below. */
  owed: number;
  waiters: number;
  readonly lanes: Map<number, Lane<W>>;
}

interface Lane<W> {
  readonly account: Account<W>;
  readonly waiters: OrderedSet<W>;
}

interface Level<W> {
  readonly byCounter: OrderedSet<Lane<W>>;
  readonly bySize: OrderedSet<Lane<W>>;
  waiters: number;
}

/** Tenants without a waiter whose counters are kept. */
const maxIdle = 1_024;

/**
 * Whose turn it is within a class: of the tenants that wait in it, the one that was served the fewest tokens, and of its
 * calls the one with the earliest deadline. This is the virtual token counter of "Fairness in Serving Large Language
 * Models" (OSDI 2024), all tenants weighing the same:
 *
 * - A tenant is charged the tokens of a prompt when the call has its turn and the generated ones when it ends (per step
 *   would cost every token of every call), in whichever class it waited.
 * - A tenant that begins to wait is lifted to the least counter of those who wait already, so idleness earns no credit;
 *   when nobody waits, to that of the tenant that waited last.
 *
 * So the tokens served to any two tenants, while both have calls waiting in one class, differ at most by what one call
 * costs besides what runs uncharged. Every operation is O(log n).
 */
export class FairShare<W extends Waiter> {
  readonly #accounts = new Map<string, Account<W>>();
  readonly #waiting = new OrderedSet<Account<W>>(byCounter);
  readonly #idle = new OrderedSet<Account<W>>(byCounter);
  readonly #levels: readonly Level<W>[];
  #indebted: Account<W>[] = [];
  /** Counter of the tenant that waited last, for when nobody does. */
  #floor = 0;

  constructor(levels: number) {
    this.#levels = Array.from({ length: levels }, () => ({
      byCounter: new OrderedSet<Lane<W>>((a, b) => byCounter(a.account, b.account)),
      bySize: new OrderedSet<Lane<W>>((a, b) => a.waiters.size - b.waiters.size || byName(a.account, b.account)),
      waiters: 0,
    }));
  }

  /** Waiters of a level. */
  count(level: number): number {
    return this.#level(level).waiters;
  }

  /** Waiters of a tenant at a level. */
  countOf(tenant: string, level: number): number {
    return this.#accounts.get(tenant)?.lanes.get(level)?.waiters.size ?? 0;
  }

  add(waiter: W): void {
    const level = this.#level(waiter.level);
    const account = this.#account(waiter.tenant);
    if (account.waiters === 0) {
      this.#settle();
      this.#idle.delete(account);
      account.counter = Math.max(account.counter, this.#waiting.first()?.counter ?? this.#floor);
      this.#waiting.add(account);
    }
    account.waiters += 1;
    const lane = account.lanes.get(waiter.level) ?? { account, waiters: new OrderedSet<W>(byDeadline) };
    if (lane.waiters.size === 0) {
      account.lanes.set(waiter.level, lane);
      level.byCounter.add(lane);
    } else level.bySize.delete(lane);
    lane.waiters.add(waiter);
    level.bySize.add(lane);
    level.waiters += 1;
  }

  remove(waiter: W): void {
    const level = this.#level(waiter.level);
    const account = this.#account(waiter.tenant);
    const lane = account.lanes.get(waiter.level);
    invariant(lane, "a waiter that leaves is in its tenant's lane");
    level.bySize.delete(lane);
    lane.waiters.delete(waiter);
    level.waiters -= 1;
    if (lane.waiters.size > 0) level.bySize.add(lane);
    else {
      level.byCounter.delete(lane);
      account.lanes.delete(waiter.level);
    }
    account.waiters -= 1;
    if (account.waiters > 0) return;
    this.#waiting.delete(account);
    this.#floor = account.counter;
    this.#idle.add(account);
  }

  /** To another level, with no moment between in which its tenant would not wait. */
  move(waiter: W, level: number): void {
    const account = this.#account(waiter.tenant);
    account.waiters += 1;
    this.remove(waiter);
    waiter.level = level;
    this.add(waiter);
    account.waiters -= 1;
  }

  /** The one whose turn it is at a level. */
  next(level: number): W | undefined {
    this.#settle();
    return this.#level(level).byCounter.first()?.waiters.first();
  }

  /** The last to be served of the tenant that has the most waiters at a level. */
  mostExpendable(level: number): W | undefined {
    return this.#level(level).bySize.last()?.waiters.last();
  }

  /**
   * About how many of its level go before `waiter`: in each of the rounds that its own tenant needs to come to it, one
   * of every tenant, and in the last round those with smaller counters.
   */
  ahead(waiter: W): number {
    this.#settle();
    const { byCounter: lanes, waiters } = this.#level(waiter.level);
    const lane = this.#account(waiter.tenant).lanes.get(waiter.level);
    invariant(lane, "a waiter that asks for its place is in its tenant's lane");
    return Math.min(waiters - 1, lane.waiters.rank(waiter) * lanes.size + lanes.rank(lane));
  }

  charge(tenant: string, tokens: number): void {
    const account = this.#account(tenant);
    if (account.owed === 0) this.#indebted.push(account);
    account.owed += tokens;
  }

  /** Moves every tenant that was charged to its new place. */
  #settle(): void {
    if (this.#indebted.length === 0) return;
    const indebted = this.#indebted;
    this.#indebted = [];
    for (const account of indebted) {
      const order = account.waiters > 0 ? this.#waiting : this.#idle;
      order.delete(account);
      for (const [level, lane] of account.lanes) this.#level(level).byCounter.delete(lane);
      account.counter += account.owed;
      account.owed = 0;
      for (const [level, lane] of account.lanes) this.#level(level).byCounter.add(lane);
      order.add(account);
    }
  }

  #account(tenant: string): Account<W> {
    let account = this.#accounts.get(tenant);
    if (!account) {
      if (this.#idle.size >= maxIdle) this.#forgetOne();
      account = { tenant, counter: 0, owed: 0, waiters: 0, lanes: new Map() };
      this.#accounts.set(tenant, account);
      this.#idle.add(account);
    }
    return account;
  }

  /** The one that was served least, since lifting would make up for its counter anyway. */
  #forgetOne(): void {
    this.#settle();
    const forgotten = this.#idle.first();
    if (!forgotten) return;
    this.#idle.delete(forgotten);
    this.#accounts.delete(forgotten.tenant);
  }

  #level(level: number): Level<W> {
    const found = this.#levels[level];
    invariant(found, `${level} is one of ${this.#levels.length} levels`);
    return found;
  }
}

function byCounter<W>(a: Account<W>, b: Account<W>): number {
  return a.counter - b.counter || byName(a, b);
}

function byName<W>(a: Account<W>, b: Account<W>): number {
  return a.tenant < b.tenant ? -1 : a.tenant > b.tenant ? 1 : 0;
}

function byDeadline(a: Waiter, b: Waiter): number {
  return a.deadlineMs - b.deadlineMs || a.number - b.number;
}
