import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Queue, type QueueBounds, type QueueEntry } from "./queue.ts";

const generous: QueueBounds = { maxEntries: 1_000, maxBytes: 1_000_000, maxWaitMs: 30_000, promoteAfterMs: 3_000 };

function entry(change: Partial<QueueEntry> = {}): QueueEntry {
  const defaults = { tenant: "a", priority: 5, deadlineMs: 1e9, minServiceMs: 0, bytes: 10, promptTokens: 1 };
  return { ...defaults, ...change };
}

function open(bounds: Partial<QueueBounds> = {}): Queue<QueueEntry> {
  const queue = new Queue<QueueEntry>({ ...generous, ...bounds });
  queue.setOpen(true, 0);
  return queue;
}

function offerAll(queue: Queue<QueueEntry>, entries: readonly QueueEntry[], nowMs = 0): void {
  for (const one of entries) expect(queue.offer(one, nowMs).kind).toBe("queued");
}

function takeAll(queue: Queue<QueueEntry>, nowMs = 0): QueueEntry[] {
  const taken: QueueEntry[] = [];
  for (let next = queue.take(nowMs); next; next = queue.take(nowMs)) taken.push(next);
  return taken;
}

describe("a queue's order", () => {
  test("is by class, whoever came first", () => {
    const queue = open();
    offerAll(queue, [entry({ priority: 0 }), entry({ priority: 9 }), entry({ priority: 5 })]);
    expect(takeAll(queue).map(({ priority }) => priority)).toEqual([9, 5, 0]);
  });

  test("is by deadline among the calls of one tenant, and by arrival among equal ones", () => {
    const queue = open();
    const [late, early, second] = [entry({ deadlineMs: 900 }), entry({ deadlineMs: 800 }), entry({ deadlineMs: 800 })];
    offerAll(queue, [late, early, second]);
    expect(takeAll(queue)).toEqual([early, second, late]);
  });

  test("moves who waited promoteAfterMs up by one class, and further with each such wait", () => {
    const queue = open();
    const low = entry({ priority: 3 });
    offerAll(queue, [low]);
    const middle = entry({ priority: 5 });
    offerAll(queue, [middle], 8_999);
    expect(queue.take(8_999)).toBe(low);
    offerAll(queue, [low], 10_000);
    expect(queue.take(10_000)).toBe(middle);
    expect(queue.promotions).toBe(2);
  });

  test("tells each how many go before it, and nothing to one that left", () => {
    const queue = open();
    const entries = [9, 5, 5, 0].map((priority) => entry({ priority }));
    offerAll(queue, entries);
    expect(entries.map((one) => queue.ahead(one))).toEqual([0, 1, 2, 3]);
    queue.take(0);
    expect(entries.map((one) => queue.ahead(one))).toEqual([undefined, 0, 1, 2]);
  });

  test("alternates between tenants whose calls cost the same, however many each has", () => {
    const queue = open();
    offerAll(queue, [
      ...Array.from({ length: 20 }, () => entry({ tenant: "many" })),
      ...Array.from({ length: 3 }, () => entry({ tenant: "few" })),
    ]);
    const first = takeAll(queue).slice(0, 6);
    expect(first.filter(({ tenant }) => tenant === "few")).toHaveLength(3);
  });

  test("gives a tenant with long answers fewer turns", () => {
    const queue = open();
    const turns = { long: 0, short: 0 };
    const tenants = ["long", "short"] as const;
    for (const tenant of tenants) offerAll(queue, [entry({ tenant }), entry({ tenant })]);
    for (let turn = 0; turn < 100; turn++) {
      const tenant = queue.take(0)?.tenant === "long" ? "long" : "short";
      turns[tenant] += 1;
      queue.charge(tenant, tenant === "long" ? 90 : 9);
      offerAll(queue, [entry({ tenant })]);
    }
    expect(turns.short / turns.long).toBeCloseTo(9, 0);
  });

  test("gives a tenant that was idle no credit for it", () => {
    const queue = open();
    offerAll(queue, [entry({ tenant: "idle" })]);
    queue.take(0);
    offerAll(queue, [entry({ tenant: "busy" }), entry({ tenant: "busy" })]);
    queue.take(0);
    queue.charge("busy", 1_000_000);
    offerAll(queue, [entry({ tenant: "busy" })]);
    offerAll(
      queue,
      Array.from({ length: 10 }, () => entry({ tenant: "idle" })),
    );
    const turns = takeAll(queue).map(({ tenant }) => tenant);
    expect(turns.slice(0, 4).filter((tenant) => tenant === "busy")).toHaveLength(2);
  });
});

describe("a queue's bounds", () => {
  test("refuse the entry above the number or the bytes", () => {
    const few = open({ maxEntries: 1 });
    offerAll(few, [entry()]);
    expect(few.offer(entry(), 0)).toEqual({ kind: "full", bound: "entries" });
    const small = open({ maxBytes: 25 });
    offerAll(small, [entry(), entry()]);
    expect(small.offer(entry(), 0)).toEqual({ kind: "full", bound: "bytes" });
    expect(small.offer(entry({ bytes: 26 }), 0)).toEqual({ kind: "full", bound: "bytes" });
    expect([few.size, few.bytes, small.size, small.bytes]).toEqual([1, 10, 2, 20]);
  });

  test("let a higher class take the place of the least pressing call of the lowest", () => {
    const queue = open({ maxEntries: 2 });
    const [keeps, loses] = [entry({ priority: 1, deadlineMs: 500 }), entry({ priority: 1, deadlineMs: 600 })];
    offerAll(queue, [loses, keeps]);
    const urgent = entry({ priority: 2 });
    expect(queue.offer(urgent, 0)).toEqual({ kind: "queued", displaced: loses });
    expect(queue.offer(entry({ priority: 0 }), 0)).toEqual({ kind: "full", bound: "entries" });
    expect(takeAll(queue)).toEqual([urgent, keeps]);
  });

  test("share the places of one class between tenants", () => {
    const queue = open({ maxEntries: 10 });
    offerAll(
      queue,
      Array.from({ length: 10 }, () => entry({ tenant: "first" })),
    );
    const offers = Array.from({ length: 10 }, () => queue.offer(entry({ tenant: "second" }), 0).kind);
    expect(offers.filter((kind) => kind === "queued")).toHaveLength(5);
    expect(takeAll(queue).filter(({ tenant }) => tenant === "second")).toHaveLength(5);
  });

  test("displace nobody when one place would not be enough", () => {
    const queue = open({ maxBytes: 100 });
    offerAll(
      queue,
      Array.from({ length: 10 }, () => entry({ priority: 0 })),
    );
    expect(queue.offer(entry({ priority: 9, bytes: 11 }), 0)).toEqual({ kind: "full", bound: "bytes" });
    expect(queue.size).toBe(10);
  });
});

describe("a queue's deadlines", () => {
  /** Gives one turn every 100 ms and leaves the queue empty, at 1,000 ms. */
  function measured(): Queue<QueueEntry> {
    const queue = open();
    offerAll(
      queue,
      Array.from({ length: 10 }, () => entry()),
    );
    for (let turn = 1; turn <= 10; turn++) queue.take(turn * 100);
    return queue;
  }

  test("drop an entry at the moment after which no turn would help", () => {
    const queue = open();
    const hopeless = entry({ deadlineMs: 500, minServiceMs: 40 });
    offerAll(queue, [hopeless, entry()]);
    expect(queue.nextMs(0)).toBe(460);
    expect(queue.expire(459)).toEqual([]);
    expect(queue.expire(460)).toEqual([{ entry: hopeless, kind: "too-late" }]);
    expect(queue.size).toBe(1);
  });

  test("refuse at once what its place in the queue makes too late, with the predicted wait", () => {
    const queue = measured();
    offerAll(
      queue,
      Array.from({ length: 40 }, () => entry()),
      1_000,
    );
    // 40 ahead at 100 ms each: 4 s as measured, 2 s at best.
    const offer = queue.offer(entry({ deadlineMs: 2_900 }), 1_000);
    expect(offer.kind).toBe("queued");
    const behind = queue.offer(entry({ deadlineMs: 2_900, tenant: "b", priority: 4 }), 1_000);
    expect(behind).toEqual({ kind: "too-late", waitMs: expect.closeTo(4_100, -1) });
    expect(queue.size).toBe(41);
  });

  test("drop who was overtaken and cannot make it any more, before its deadline", () => {
    const queue = measured();
    const overtaken = entry({ priority: 1, deadlineMs: 2_000 });
    offerAll(queue, [overtaken], 1_000);
    offerAll(
      queue,
      Array.from({ length: 30 }, () => entry({ priority: 8 })),
      1_000,
    );
    expect(queue.expire(1_000)).toEqual([{ entry: overtaken, kind: "too-late" }]);
  });

  test("end every wait after maxWaitMs, counted from when there was something to wait for", () => {
    const queue = new Queue<QueueEntry>(generous);
    const waiter = entry();
    offerAll(queue, [waiter]);
    expect(queue.nextMs(0)).toBe(1e9);
    expect(queue.expire(40_000)).toEqual([]);
    queue.setOpen(true, 50_000);
    expect(queue.nextMs(50_000)).toBe(80_000);
    expect(queue.expire(80_000)).toEqual([{ entry: waiter, kind: "waited" }]);
  });

  test("tell how long the whole queue takes as it drained lately", () => {
    const queue = measured();
    expect(open().drainMs(0)).toBeUndefined();
    offerAll(
      queue,
      Array.from({ length: 4 }, () => entry()),
      1_000,
    );
    expect(queue.drainMs(1_000)).toBeCloseTo(500, 0);
    // Nothing has moved for ten seconds: slower by what that says.
    expect(queue.drainMs(11_000)).toBeGreaterThan(4_000);
    // Nobody waits for longer than that, however many there are.
    offerAll(
      queue,
      Array.from({ length: 500 }, () => entry()),
      11_000,
    );
    expect(queue.drainMs(11_000)).toBe(generous.maxWaitMs);
  });
});

const operation = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("offer" as const),
      tenant: fc.constantFrom("a", "b", "c"),
      priority: fc.nat(9),
      timeoutMs: fc.integer({ min: 1, max: 40_000 }),
      bytes: fc.integer({ min: 1, max: 60 }),
      promptTokens: fc.nat(50),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("take" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("leave" as const), which: fc.nat(30) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("expire" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("charge" as const), tenant: fc.constantFrom("a", "b", "z") }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("open" as const), open: fc.boolean() }) },
);

describe("whatever happens to it, a queue", () => {
  test("keeps its bounds, loses nobody and gives nobody two ends", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(2_000), operation), { maxLength: 150 }), (steps) => {
        const bounds = { maxEntries: 8, maxBytes: 200, maxWaitMs: 20_000, promoteAfterMs: 1_500 };
        const queue = new Queue<QueueEntry>(bounds);
        const waiting = new Set<QueueEntry>();
        const ends = (...ended: (QueueEntry | undefined)[]): void => {
          for (const one of ended.filter((some) => some !== undefined)) expect(waiting.delete(one)).toBe(true);
        };
        let nowMs = 0;
        for (const [passMs, step] of steps) {
          nowMs += passMs;
          switch (step.kind) {
            case "offer": {
              const added = entry({ ...step, deadlineMs: nowMs + step.timeoutMs });
              const offer = queue.offer(added, nowMs);
              if (offer.kind !== "queued") break;
              waiting.add(added);
              ends(offer.displaced);
              break;
            }
            case "take":
              ends(queue.take(nowMs));
              break;
            case "leave": {
              const leaver = [...waiting][step.which];
              if (leaver && queue.leave(leaver, nowMs)) ends(leaver);
              break;
            }
            case "expire":
              ends(...queue.expire(nowMs).map((one) => one.entry));
              break;
            case "charge":
              queue.charge(step.tenant, 100);
              break;
            case "open":
              queue.setOpen(step.open, nowMs);
          }
          expect(queue.size).toBe(waiting.size);
          expect(queue.size).toBeLessThanOrEqual(bounds.maxEntries);
          expect(queue.bytes).toBe([...waiting].reduce((sum, { bytes }) => sum + bytes, 0));
          expect(queue.bytes).toBeLessThanOrEqual(bounds.maxBytes);
        }
        ends(...takeAll(queue, nowMs));
        expect(waiting.size).toBe(0);
      }),
    );
  });

  test("starves nobody: below a busy class every call has its turn within nine promotions and the calls before it", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3 }), fc.nat(9), (rivals, priority) => {
        const queue = open({ promoteAfterMs: 1_000, maxWaitMs: 1e9 });
        const poor = entry({ tenant: "poor", priority, deadlineMs: 1e6 });
        offerAll(queue, [poor]);
        let nowMs = 0;
        let turn: QueueEntry | undefined;
        while (turn !== poor && nowMs < 60_000) {
          nowMs += 100;
          // As many as are served, of the highest class: without promotion nobody below would ever be.
          for (let rival = 0; rival < rivals; rival++) {
            queue.offer(entry({ tenant: `rival-${rival}`, priority: 9, deadlineMs: 1e6 + nowMs }), nowMs);
          }
          for (let rival = 0; rival < rivals && turn !== poor; rival++) turn = queue.take(nowMs);
        }
        expect(turn).toBe(poor);
        expect(nowMs).toBeLessThanOrEqual((9 - priority) * 1_000 + 1_000);
      }),
    );
  });

  test("serves tenants that wait without a pause tokens that differ by at most one call's", () => {
    const costs = fc.array(fc.tuple(fc.nat(500), fc.nat(500)), { minLength: 50, maxLength: 200 });
    fc.assert(
      fc.property(costs, fc.integer({ min: 2, max: 5 }), (turns, tenants) => {
        const queue = open();
        const served = new Map<string, number>();
        const next = (tenant: string) => offerAll(queue, [entry({ tenant, promptTokens: 0 })]);
        for (let index = 0; index < tenants; index++) {
          served.set(`t${index}`, 0);
          next(`t${index}`);
          next(`t${index}`);
        }
        for (const [prompt, generated] of turns) {
          const tenant = queue.take(0)?.tenant ?? "";
          queue.charge(tenant, prompt);
          queue.charge(tenant, generated);
          served.set(tenant, (served.get(tenant) ?? 0) + prompt + generated);
          next(tenant);
        }
        expect(Math.max(...served.values()) - Math.min(...served.values())).toBeLessThanOrEqual(1_000);
      }),
    );
  });
});
