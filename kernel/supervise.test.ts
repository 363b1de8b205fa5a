import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, test } from "vitest";
import { ManualClock, systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { seededRandom } from "#kernel/random.ts";
import { type ChildExit, type SuperviseOptions, supervise } from "#kernel/supervise.ts";

const idle = "setInterval(() => {}, 1000); console.log('up')";

function options(script: string, changes: Partial<SuperviseOptions> = {}): SuperviseOptions & { starts: () => number } {
  let starts = 0;
  return {
    name: "child",
    start() {
      starts++;
      return spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] });
    },
    starts: () => starts,
    backoff: { initialMs: 100, maxMs: 1_000 },
    clock: systemClock,
    random: seededRandom(1),
    logger: silentLogger,
    ...changes,
  };
}

test("starts a child again after its exit, once the back-off has passed", async () => {
  const clock = new ManualClock();
  const exits: ChildExit[] = [];
  const given = options("process.exit(3)", { clock, onExit: (exit) => exits.push(exit) });
  const supervised = supervise(given);
  await expect.poll(() => clock.pendingTimers).toBe(1);
  expect(exits).toEqual([{ code: 3, signal: null }]);
  expect(supervised.child).toBeUndefined();
  clock.advance(100);
  expect(given.starts()).toBe(1);
  await expect.poll(() => given.starts()).toBe(2);
  await supervised.stop("SIGTERM", 1_000);
});

test("gives up after so many failures in a row", async () => {
  const clock = new ManualClock();
  const gaveUp = Promise.withResolvers<ChildExit>();
  const given = options("process.exit(3)", { clock, giveUpAfter: 2, onGiveUp: gaveUp.resolve });
  const supervised = supervise(given);
  await expect.poll(() => clock.pendingTimers).toBe(1);
  clock.advance(1_000);
  expect(await gaveUp.promise).toEqual({ code: 3, signal: null });
  expect(given.starts()).toBe(2);
  await supervised.stop("SIGTERM", 1_000);
});

test("counts anew after a child that lived long enough", async () => {
  const clock = new ManualClock();
  let gaveUp = false;
  const given = options(idle, { clock, giveUpAfter: 2, stableMs: 5_000, onGiveUp: () => (gaveUp = true) });
  const supervised = supervise(given);
  for (let round = 1; round <= 3; round++) {
    await expect.poll(() => given.starts()).toBe(round);
    const { child } = supervised;
    clock.advance(5_000);
    child?.kill("SIGKILL");
    await expect.poll(() => clock.pendingTimers).toBe(1);
    clock.advance(100);
  }
  expect(gaveUp).toBe(false);
  await supervised.stop("SIGKILL", 1_000);
});

test("treats a program that does not exist, and a start that throws, as exits", async () => {
  for (const start of [
    () => spawn("/does/not/exist"),
    () => {
      throw new Error("no file descriptors");
    },
  ]) {
    const gaveUp = Promise.withResolvers<ChildExit>();
    const supervised = supervise(options("", { start, giveUpAfter: 1, onGiveUp: gaveUp.resolve }));
    expect(await gaveUp.promise).toMatchObject({ code: null, error: expect.any(Error) });
    await supervised.stop("SIGTERM", 1_000);
  }
});

test("stops the child with the signal and starts no other", async () => {
  const given = options(idle);
  const supervised = supervise(given);
  const { child } = supervised;
  await supervised.stop("SIGTERM", 60_000);
  expect(child?.signalCode).toBe("SIGTERM");
  expect(given.starts()).toBe(1);
});

test("kills a child that ignores the signal", async () => {
  const clock = new ManualClock();
  const supervised = supervise(options(`process.on("SIGTERM", () => console.log("no")); ${idle}`, { clock }));
  const { child } = supervised;
  if (child?.stdout) await once(child.stdout, "data");
  const stopped = supervised.stop("SIGTERM", 5_000);
  clock.advance(5_000);
  await stopped;
  expect(child?.signalCode).toBe("SIGKILL");
});

test("stops during a back-off", async () => {
  const clock = new ManualClock();
  const supervised = supervise(options("process.exit(3)", { clock }));
  await expect.poll(() => clock.pendingTimers).toBe(1);
  await supervised.stop("SIGTERM", 1_000);
  expect(clock.pendingTimers).toBe(0);
});
