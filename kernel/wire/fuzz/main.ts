/**
 * Coverage-guided fuzzing of what reads bytes of a peer: frames, header blocks, gRPC messages, and whole connections of
 * both roles.
 *
 *     node kernel/wire/fuzz/main.ts [--seconds N] [--seed S] [--target NAME] [--keep]
 *     node kernel/wire/fuzz/main.ts --target NAME --replay HEX
 *
 * The seconds are for each target. `--keep` writes the inputs that matter, the fewest that run all that was run, to
 * `corpus/`, which `fuzz.test.ts` replays. Exits with 1 at the first failure and prints the command that repeats it.
 */
import { parseArgs } from "node:util";
import { systemClock } from "#kernel/clock.ts";
import { seededRandom } from "#kernel/random.ts";
import { Coverage } from "#kernel/wire/fuzz/coverage.ts";
import type { Failure, FuzzTarget } from "#kernel/wire/fuzz/loop.ts";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "30" },
    seed: { type: "string", default: "1" },
    target: { type: "string" },
    replay: { type: "string" },
    keep: { type: "boolean", default: false },
  },
});
/** Between two lines of progress, milliseconds. */
const tellEveryMs = 10_000;
/** Of one execution, which takes a few milliseconds at most; more than any pause of a busy machine. */
const longestMs = 3_000;

const coverage = new Coverage((url) => /\/kernel\/(wire\/[\w-]+|grpc-messages)\.ts$/.test(url));
// Only now, so that every block of them is counted.
const { fuzz } = await import("#kernel/wire/fuzz/loop.ts");
const { readCorpus, writeCorpus } = await import("#kernel/wire/fuzz/corpus.ts");
const { fuzzTargets } = await import("#kernel/wire/fuzz/targets.ts");

const chosen = fuzzTargets.filter(({ name }) => values.target === undefined || name === values.target);
if (chosen.length === 0) throw new Error(`--target is one of ${fuzzTargets.map(({ name }) => name).join(", ")}`);
for (const target of chosen) {
  if (values.replay !== undefined) console.log(await target.run(Buffer.from(values.replay, "hex")));
  else await search(watched(target));
}

/** An input is at fault too when it takes too long, or when what it left behind throws by itself. */
function watched(target: FuzzTarget): FuzzTarget {
  let input: Buffer = Buffer.alloc(0);
  process.removeAllListeners("uncaughtException").on("uncaughtException", (error) => {
    console.log(error);
    console.log(replayCommand(target, input));
    process.exit(1);
  });
  return {
    ...target,
    async run(next) {
      input = next;
      const beganMs = systemClock.monotonicMs();
      const kind = await target.run(next);
      const tookMs = systemClock.monotonicMs() - beganMs;
      if (tookMs > longestMs) throw new Error(`one execution took ${Math.round(tookMs)} ms`);
      return kind;
    },
  };
}

async function search(target: FuzzTarget): Promise<void> {
  coverage.forget();
  const beganMs = systemClock.monotonicMs();
  let toldMs = beganMs;
  const { executions, corpus, failure } = await fuzz({
    target,
    corpus: readCorpus(target.name),
    coverage,
    random: seededRandom(Number(values.seed)),
    goesOn(state) {
      const nowMs = systemClock.monotonicMs();
      if (nowMs - toldMs >= tellEveryMs) {
        toldMs = nowMs;
        tell(target, state.executions, state.corpus.length);
      }
      return nowMs - beganMs < Number(values.seconds) * 1_000;
    },
  });
  tell(target, executions, corpus.length);
  if (failure) return fail(target, failure);
  if (values.keep) writeCorpus(target.name, await fewest(target, corpus));
}

function tell({ name }: FuzzTarget, executions: number, inputs: number): void {
  const characters = coverage.characters.toLocaleString("en");
  console.log(
    `${name.padEnd(17)} ${executions.toLocaleString("en").padStart(10)} executions  ` +
      `${characters.padStart(7)} characters of code ran  ${String(inputs).padStart(5)} inputs`,
  );
}

async function fail(target: FuzzTarget, failure: Failure): Promise<void> {
  const input = await shrink(target, failure.input);
  console.log(failure.error);
  console.log(replayCommand(target, input));
  process.exit(1);
}

function replayCommand({ name }: FuzzTarget, input: Buffer): string {
  return `node kernel/wire/fuzz/main.ts --target ${name} --replay ${input.toString("hex")}`;
}

/** Takes away what is not needed to fail, however it fails then. */
async function shrink(target: FuzzTarget, failing: Buffer): Promise<Buffer> {
  let input = failing;
  for (let size = input.length; size >= 1; size = Math.floor(size / 2)) {
    for (let at = 0; at < input.length;) {
      const less = Buffer.concat([input.subarray(0, at), input.subarray(at + size)]);
      if (await fails(target, less)) input = less;
      else at += size;
    }
  }
  return input;
}

async function fails(target: FuzzTarget, input: Buffer): Promise<boolean> {
  try {
    await target.run(input);
    return false;
  } catch {
    return true;
  }
}

/** The shortest first, and then those that run what none before did. */
async function fewest(target: FuzzTarget, inputs: readonly Buffer[]): Promise<Buffer[]> {
  const kept: Buffer[] = [];
  coverage.forget();
  for (const input of inputs.toSorted((one, other) => one.length - other.length)) {
    await target.run(input);
    if (coverage.take() > 0) kept.push(input);
  }
  return kept;
}
