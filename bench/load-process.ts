// A process of the test bed: clients, and the measuring around them. Asked by its parent.
import { setTimeout as sleep } from "node:timers/promises";
import { openGrpcLoad } from "./bed/grpc-load.ts";
import { type Job, type Load, type Outcome, type Percentiles, Tally } from "./bed/job.ts";
import { openOpenAiLoad } from "./bed/openai-load.ts";
import { serveParent } from "./bed/parent.ts";
import { cpuSecondsOfTree, residentBytesOfTree } from "./process-cpu.ts";
import { percentile } from "./report.ts";

/** How long the last calls may take after the measured time. */
const patienceMs = 120_000;

/** Of waiting for calls to end, beyond the time that a job says. */
const longestMs = 20_000;

/** @throws Error when one call of all did not get exactly its answer */
async function run(job: Job): Promise<Outcome> {
  const tally = new Tally();
  const residentBefore = residentBytesOfTree(job.pid);
  const load = job.protocol === "grpc" ? await openGrpcLoad(job, tally) : openOpenAiLoad(job, tally);
  let cpuBefore = cpuSecondsOfTree(job.pid);
  let startedMs = performance.now();
  const failed = (): boolean => tally.faults.size > 0;
  const loop =
    job.arrivalsPerS === undefined ? closedLoop(job, load, failed) : openLoop(job.arrivalsPerS, load, failed);
  try {
    if (job.calls === undefined) {
      await enough(job, tally, job.warmUpMs);
      tally.reset();
      cpuBefore = cpuSecondsOfTree(job.pid);
      startedMs = performance.now();
      await enough(job, tally, job.measureMs);
    } else {
      await loop.idle();
    }
    const outcome = {
      calls: tally.calls,
      tokens: tally.tokens,
      seconds: (performance.now() - startedMs) / 1_000,
      cpuSeconds: cpuSecondsOfTree(job.pid) - cpuBefore,
      residentBefore,
      residentBytes: residentBytesOfTree(job.pid),
      ttftMs: percentiles(tally.ttftMs),
      gapMs: percentiles(tally.gapMs),
    };
    await loop.stop();
    if (tally.faults.size > 0) {
      const lines = [...tally.faults].map(([fault, count]) => `  ${count} of ${tally.started} calls: ${fault}`);
      throw new Error(`Not every call got its answer:\n${lines.join("\n")}`);
    }
    if (outcome.tokens === 0) throw new Error("Not one token came within the measured time.");
    return { ...outcome, started: tally.started };
  } finally {
    load.close();
  }
}

/** Waits as long as told; on a machine that is too busy for that to mean anything, until half of the streams' calls ended. */
async function enough({ connections, streams }: Job, tally: Tally, waitMs: number): Promise<void> {
  await sleep(waitMs);
  const untilMs = performance.now() + longestMs;
  while (tally.calls < (connections * streams) / 2 && tally.faults.size === 0 && performance.now() < untilMs) {
    await sleep(50);
  }
}

interface Loop {
  /** Resolves when no call is open. */
  idle(): Promise<void>;
  /** No new calls; resolves when the last one has ended. */
  stop(): Promise<void>;
}

/** Every stream is always in use. The first calls start spread over the time that an answer takes. */
function closedLoop(
  { connections, streams, tokens, stepMs, calls = Infinity }: Job,
  load: Load,
  failed: () => boolean,
): Loop {
  const running = new Running();
  let left = calls;
  const next = (): void => {
    if (running.stopping || failed() || left-- <= 0) return;
    running.start(load, performance.now(), next);
  };
  for (let at = 0; at < connections * streams; at++) {
    if (at === 0 || calls < Infinity) next();
    else setTimeout(next, Math.random() * tokens * stepMs);
  }
  return running;
}

/** Calls come at random (exponential gaps), and wait from the moment they should have started. */
function openLoop(perSecond: number, load: Load, failed: () => boolean): Loop {
  const running = new Running();
  let dueMs = performance.now();
  const pump = (): void => {
    if (running.stopping || failed()) return;
    for (const nowMs = performance.now(); dueMs <= nowMs;) {
      running.start(load, dueMs, () => {});
      dueMs += (-Math.log(1 - Math.random()) / perSecond) * 1_000;
    }
    setTimeout(pump, 1);
  };
  pump();
  return running;
}

class Running implements Loop {
  stopping = false;
  #count = 0;
  #onIdle = (): void => {};

  start(load: Load, arrivedMs: number, onDone: () => void): void {
    this.#count += 1;
    load.start(arrivedMs, () => {
      this.#count -= 1;
      onDone();
      if (this.#count === 0) this.#onIdle();
    });
  }

  async stop(): Promise<void> {
    this.stopping = true;
    await this.idle();
  }

  async idle(): Promise<void> {
    if (this.#count === 0) return;
    const { promise, resolve } = Promise.withResolvers<"idle">();
    this.#onIdle = () => resolve("idle");
    const over = new AbortController();
    const late = sleep(patienceMs, "late" as const, { signal: over.signal }).catch(() => "idle" as const);
    if ((await Promise.race([promise, late])) === "late") {
      throw new Error(`${this.#count} calls had not ended after ${patienceMs} ms.`);
    }
    over.abort();
  }
}

function percentiles(values: readonly number[]): Percentiles {
  const sorted = values.toSorted((a, b) => a - b);
  return { p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99) };
}

await serveParent({ run });
