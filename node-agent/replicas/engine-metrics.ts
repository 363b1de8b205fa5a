import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { ReplicaSet } from "./replica-set.ts";

const readEveryMs = 1_000;

/** Keeps gauges of every replica's engine, read once a second, until the function it returns is called. */
export function observeEngines(options: {
  readonly metrics: Metrics;
  readonly replicas: ReplicaSet;
  readonly clock: Clock;
}): () => void {
  const { metrics, replicas, clock } = options;
  // Labels are bounded by the replicas on the node: those that are gone leave with the next reading.
  const gauge = (name: string, help: string) => metrics.gauge(name, help, ["replica"]);
  const running = gauge("engine_running_sequences", "Sequences in the decode batch.");
  const queued = gauge("engine_queued_calls", "Calls waiting in the engine.");
  const kvUsed = gauge("engine_kv_used_tokens", "KV cache cells in use.");
  const kvTotal = gauge("engine_kv_total_tokens", "KV cache cells there are.");
  const step = gauge("engine_step_seconds", "Moving average duration of a decode step.");
  const prefill = gauge("engine_prefill_tokens_per_second", "Moving average prefill rate.");
  const restarts = gauge("engine_restarts", "How often the engine was restarted after a crash.");
  const ready = gauge("engine_ready", "1 while the replica takes calls.");
  const prefixes = gauge("engine_prefix_blocks", "Blocks of prompts that the cache is known to hold.");
  const all = [prefixes, running, queued, kvUsed, kvTotal, step, prefill, restarts, ready];

  function read(): void {
    for (const one of all) one.reset();
    for (const { replicaId: replica, load, engineRestarts, state } of replicas.statuses()) {
      restarts.set({ replica }, engineRestarts);
      prefixes.set({ replica }, replicas.heldPrefixCount(replica));
      ready.set({ replica }, state === ReplicaState.READY ? 1 : 0);
      running.set({ replica }, load?.running ?? 0);
      queued.set({ replica }, load?.queued ?? 0);
      kvUsed.set({ replica }, Number(load?.kvUsedTokens ?? 0n));
      kvTotal.set({ replica }, Number(load?.kvTotalTokens ?? 0n));
      step.set({ replica }, (load?.stepTimeUs ?? 0) / 1e6);
      prefill.set({ replica }, load?.prefillTokensPerS ?? 0);
    }
    timer = clock.setTimer(readEveryMs, read, { unref: true });
  }
  let timer = clock.setTimer(readEveryMs, read, { unref: true });
  return () => timer.cancel();
}
