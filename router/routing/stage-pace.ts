import type { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";

/** Less of a stage than this says nothing about its pace. */
const leastProgress = 0.001;

/** How fast a replica that is no ready one yet goes through a stage of its start: fetching its weights, or loading them. */
export class StagePace {
  readonly state: ReplicaState;
  #from: number;
  #sinceMs: number;

  /** It was first seen in this stage at `nowMs`, with `progress` (0 to 1) of it behind it. */
  constructor(state: ReplicaState, progress: number, nowMs: number) {
    this.state = state;
    this.#from = progress;
    this.#sinceMs = nowMs;
  }

  /** Until the stage is over, if it goes on as it went; undefined while it has not moved. */
  leftMs(progress: number, nowMs: number): number | undefined {
    const done = progress - this.#from;
    if (done < 0) {
      // It began anew.
      this.#from = progress;
      this.#sinceMs = nowMs;
    }
    return done < leastProgress ? undefined : ((1 - progress) * (nowMs - this.#sinceMs)) / done;
  }
}
