import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { FinishReason } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { StopMatcher } from "../../output/stop-strings.ts";
import { exactBlockTokens } from "./batch.ts";
import { toWireError, type WireEvent, type WireLogprob } from "./messages.ts";
import type { AddonContext, NativeModel, Sampler } from "./native.ts";
import type { Plan } from "./plan.ts";
import { seedOfDraw } from "./seed.ts";
import { Utf8Text } from "./utf8-text.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** One lane of the KV cache: the tokens it holds, and those still to be evaluated behind them. */
export class Lane {
  readonly index: number;
  readonly tokens: Uint32Array;
  /** Tokens known. */
  length = 0;
  /** Of these, tokens in the KV cache. */
  evaluated = 0;
  /** Of these, tokens at the beginning that were evaluated in whole blocks of exact sequences. */
  exact = 0;
  /** As in ChoosableLane. */
  usedAt = 0;
  sequence: Sequence | undefined;

  constructor(index: number, contextTokens: number) {
    this.index = index;
    this.tokens = new Uint32Array(contextTokens);
  }

  /** Takes a call's tokens, of which the first `evaluated` are in the KV cache already. */
  begin({ promptTokens, generated }: Plan, evaluated: number, usedAt: number): void {
    this.tokens.set(promptTokens);
    this.tokens.set(generated, promptTokens.length);
    this.length = promptTokens.length + generated.length;
    this.usedAt = usedAt;
    this.evaluated = evaluated;
    this.exact = Math.min(this.exact, evaluated);
  }

  get isFull(): boolean {
    return this.evaluated === this.tokens.length;
  }

  /** Tokens of the prompt that the cache holds and may be used; its last one is always evaluated, for its logits. */
  sharedPrefix({ promptTokens, exact }: Plan): number {
    const most = Math.min(exact ? this.exact : this.evaluated, promptTokens.length - 1);
    let shared = 0;
    while (shared < most && this.tokens[shared] === promptTokens[shared]) shared++;
    return exact ? shared - (shared % exactBlockTokens) : shared;
  }

  /** All that is evaluated came in blocks of an exact prompt; whole ones may serve another exact one. */
  noteExact(): void {
    this.exact = this.evaluated - (this.evaluated % exactBlockTokens);
  }

  append(token: number): void {
    this.tokens[this.length++] = token;
  }

  /** Forgets what was never evaluated; the rest stays for a later prompt that begins alike. */
  release(): void {
    this.length = this.evaluated;
    this.sequence = undefined;
  }
}

export interface SequenceParts {
  readonly model: NativeModel;
  readonly context: AddonContext;
  readonly vocabulary: Vocabulary;
}

/** One call while it runs: draws its tokens and turns them into text, until something ends it. */
export class Sequence {
  readonly id: number;
  readonly plan: Plan;
  readonly lane: Lane;
  readonly #parts: SequenceParts;
  readonly #sampler: Sampler;
  /** Greedy and without any adjustment: reads the model's own distribution. */
  readonly #reader: Sampler | undefined;
  readonly #text = new Utf8Text();
  readonly #stops: StopMatcher;
  completionTokens: number;
  /** Set by a cancel; the loop ends the sequence before its next step. */
  cancelled = false;

  constructor(id: number, plan: Plan, lane: Lane, parts: SequenceParts) {
    this.id = id;
    this.plan = plan;
    this.lane = lane;
    this.#parts = parts;
    this.completionTokens = plan.generated.length;
    this.#stops = new StopMatcher(plan.stop);
    this.#sampler = parts.model.newSampler();
    this.#sampler.applyConfig(plan.sampling);
    if (plan.logprobs !== undefined) {
      this.#reader = parts.model.newSampler();
      this.#reader.applyConfig({});
    }
  }

  /** Says the text of the tokens that came with the call; true when they had ended it already. */
  replay(events: WireEvent[]): boolean {
    const { generated, maxTokens } = this.plan;
    if (generated.length === 0) return false;
    let text = "";
    for (const token of generated) {
      const outcome = this.#stops.push(this.#text.push(this.#parts.vocabulary.piece(token)));
      text += outcome.text;
      if (!outcome.stopped) continue;
      events.push(this.#tokens(text, [], undefined), this.#finished(FinishReason.STOP));
      return true;
    }
    if (this.completionTokens >= maxTokens) {
      this.#finish(events, FinishReason.LENGTH, text, [], undefined);
      return true;
    }
    events.push(this.#tokens(text, [], undefined));
    return false;
  }

  /** Draws the next token from the logits at `logitIndex` and says what came of it; true when it was the last. */
  async draw(logitIndex: number, events: WireEvent[]): Promise<boolean> {
    const { plan, lane } = this;
    const { context, vocabulary } = this.#parts;
    if (plan.seed !== undefined) {
      const seed = seedOfDraw(plan.seed, lane.length);
      const history = plan.penalised ? { repeatPenaltyTokens: lane.tokens.subarray(0, lane.length) } : {};
      this.#sampler.applyConfig({ ...plan.sampling, ...history, seed });
    }
    let token: number;
    let logprob: WireLogprob | undefined;
    try {
      token = await context.sampleToken(logitIndex, this.#sampler);
      const ends = token < 0 || vocabulary.endsGeneration(token);
      if (this.#reader && !ends) logprob = await this.#readLogprob(logitIndex, this.#reader, token);
    } catch (error) {
      events.push(this.failed(this.#drawFault(error)));
      return true;
    }
    return this.#accept(token, logprob, events);
  }

  failed(error: MeshError): WireEvent {
    return { kind: "failed", id: this.id, error: toWireError(error), completionTokens: this.completionTokens };
  }

  dispose(): void {
    this.#sampler.dispose();
    this.#reader?.dispose();
    this.lane.release();
  }

  #accept(token: number, logprob: WireLogprob | undefined, events: WireEvent[]): boolean {
    const { plan, lane } = this;
    const { vocabulary } = this.#parts;
    // A grammar that allows nothing more gives no token: the text is complete.
    if (token < 0 || vocabulary.endsGeneration(token)) {
      this.#finish(events, FinishReason.STOP, "", [], undefined);
      return true;
    }
    this.completionTokens++;
    const outcome = this.#stops.push(this.#text.push(vocabulary.piece(token)));
    if (outcome.stopped) {
      events.push(this.#tokens(outcome.text, [token], logprob));
      events.push(this.#finished(FinishReason.STOP));
      return true;
    }
    if (this.completionTokens >= plan.maxTokens) {
      this.#finish(events, FinishReason.LENGTH, outcome.text, [token], logprob);
      return true;
    }
    events.push(this.#tokens(outcome.text, [token], logprob));
    lane.append(token);
    return false;
  }

  /** Ends without a stop string: what was held back is text after all, unless its rest completes a stop string. */
  #finish(
    events: WireEvent[],
    reason: FinishReason,
    text: string,
    tokenIds: readonly number[],
    logprob: WireLogprob | undefined,
  ): void {
    const rest = this.#stops.push(this.#text.flush());
    const whole = text + rest.text + (rest.stopped ? "" : this.#stops.flush());
    if (whole !== "" || tokenIds.length > 0) events.push(this.#tokens(whole, tokenIds, logprob));
    events.push(this.#finished(rest.stopped ? FinishReason.STOP : reason));
  }

  #finished(reason: FinishReason): WireEvent {
    return { kind: "finished", id: this.id, reason, completionTokens: this.completionTokens };
  }

  #tokens(text: string, tokenIds: readonly number[], logprob: WireLogprob | undefined): WireEvent {
    return { kind: "tokens", id: this.id, text, tokenIds, ...(logprob ? { logprobs: [logprob] } : {}) };
  }

  /**
   * Of the model's own distribution, before bias, penalties, grammar, truncation and temperature: what the API's users
   * compare between calls. The binding gives logits and the sum over the vocabulary of exp(logit - highest).
   */
  async #readLogprob(logitIndex: number, reader: Sampler, token: number): Promise<WireLogprob> {
    const wanted = this.plan.logprobs ?? 0;
    const filter = [[token], false, false, false, Math.max(1, wanted)] as const;
    const draw = await this.#parts.context.sampleToken(logitIndex, reader, false, false, filter, true);
    const flat = draw[3] ?? [];
    const logits = new Map<number, number>();
    for (let at = 0; at + 1 < flat.length; at += 2) logits.set(flat[at] ?? 0, flat[at + 1] ?? 0);
    const highest = Math.max(...logits.values());
    const scale = highest + Math.log(draw[4] ?? 1);
    const ranked = [...logits].sort((a, b) => b[1] - a[1]).slice(0, wanted);
    const one = (id: number, logit: number): WireLogprob => {
      const { bytes, text } = this.#parts.vocabulary.piece(id);
      return { tokenId: id, token: text ?? "\ufffd", tokenBytes: bytes, logprob: logit - scale, top: [] };
    };
    return { ...one(token, logits.get(token) ?? -Infinity), top: ranked.map(([id, logit]) => one(id, logit)) };
  }

  #drawFault(cause: unknown): MeshError {
    const field = this.plan.grammarField;
    return field === ""
      ? new MeshError(Reason.ENGINE_FAILED, "The engine could not draw a token; the call may be repeated.", { cause })
      : new MeshError(
          Reason.INVALID_REQUEST,
          `${field} came to a place where no token of this model fits; simplify it.`,
          { field, cause },
        );
  }
}
