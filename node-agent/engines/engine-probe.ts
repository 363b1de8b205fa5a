import type { FinishReason, GenerateRequest, TokenLogprob } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Engine, EngineOptions, StepEvent } from "./engine.ts";

export interface Outcome {
  readonly kinds: StepEvent["kind"][];
  readonly tokenIds: number[];
  readonly logprobs: TokenLogprob[];
  text: string;
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  reason: FinishReason | undefined;
}

export interface ProbedCall {
  readonly id: number;
  /** Resolves at the first tokens event. */
  readonly firstToken: Promise<void>;
  /** Resolves when the call finished; pending for ever when it failed. */
  readonly finished: Promise<Outcome>;
  /** Resolves when the call failed or was refused; pending for ever when it finished. */
  readonly error: Promise<MeshError>;
  /** Steps that brought tokens. */
  steps(): number;
  soFar(): Outcome;
}

interface Tracked extends ProbedCall {
  take(event: StepEvent): void;
}

/** Drives an engine in tests and keeps what its events said. */
export class EngineProbe {
  readonly engine: Engine;
  /** Events of calls that had ended or never begun. */
  readonly strays: StepEvent[] = [];
  /** What `onFailed` was told. */
  readonly failures: MeshError[] = [];
  readonly #calls = new Map<number, Tracked>();
  #nextId = 1;

  constructor(createEngine: (events: Pick<EngineOptions, "onStep" | "onFailed">) => Engine) {
    this.engine = createEngine({
      onStep: (events) => {
        for (const event of events) this.#take(event);
      },
      onFailed: (error) => void this.failures.push(error),
    });
  }

  begin(request: GenerateRequest, choiceIndex = 0, generated: readonly number[] = []): ProbedCall {
    const id = this.#nextId++;
    const call = track(id);
    this.#calls.set(id, call);
    try {
      this.engine.generate({ id, request, choiceIndex, generated });
    } catch (error) {
      this.#take({ kind: "failed", id, error: MeshError.from(error), completionTokens: 0 });
    }
    return call;
  }

  /** The whole of a call that must finish. */
  async run(request: GenerateRequest, choiceIndex = 0, generated: readonly number[] = []): Promise<Outcome> {
    const call = this.begin(request, choiceIndex, generated);
    const end = await Promise.race([call.finished, call.error]);
    if (end instanceof MeshError) throw end;
    return end;
  }

  #take(event: StepEvent): void {
    const call = this.#calls.get(event.id);
    if (call === undefined) this.strays.push(event);
    else call.take(event);
    if (event.kind === "finished" || event.kind === "failed") this.#calls.delete(event.id);
  }
}

function track(id: number): Tracked {
  const firstToken = Promise.withResolvers<void>();
  const finished = Promise.withResolvers<Outcome>();
  const failed = Promise.withResolvers<MeshError>();
  let steps = 0;
  const outcome: Outcome = {
    kinds: [],
    tokenIds: [],
    logprobs: [],
    text: "",
    promptTokens: 0,
    cachedTokens: 0,
    completionTokens: 0,
    reason: undefined,
  };
  return {
    id,
    firstToken: firstToken.promise,
    finished: finished.promise,
    error: failed.promise,
    steps: () => steps,
    soFar: () => outcome,
    take(event) {
      outcome.kinds.push(event.kind);
      switch (event.kind) {
        case "started":
          outcome.promptTokens = event.promptTokens;
          outcome.cachedTokens = event.cachedTokens;
          return;
        case "tokens":
          steps++;
          outcome.text += event.text;
          outcome.tokenIds.push(...event.tokenIds);
          outcome.logprobs.push(...event.logprobs);
          return firstToken.resolve();
        case "finished":
          outcome.reason = event.reason;
          outcome.completionTokens = event.completionTokens;
          return finished.resolve(outcome);
        case "failed":
          outcome.completionTokens = event.completionTokens;
          return failed.resolve(event.error);
      }
    },
  };
}
