import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type {
  CountTokensRequest,
  GenerateRequest,
  Sampling,
  TokenInput,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Random } from "#kernel/random.ts";
import { cannotContinue } from "../continuation.ts";
import type { ChatTemplate } from "./chat-template.ts";
import { textOfPart } from "./control-texts.ts";
import type { LanePrefixes } from "./lane-prefixes.ts";
import type { GrammarState, NativeModel, SamplerConfig } from "./native.ts";
import { outputGrammar } from "./output-grammar.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** A request, checked and turned into what the decode loop needs. */
export interface Plan {
  readonly promptTokens: Uint32Array;
  /** The prompt's blocks (kernel/prompt-blocks); none where nobody wants to know what the cache holds. */
  readonly blocks: Uint32Array;
  /** What an engine elsewhere generated already; empty for a new call. */
  readonly generated: Uint32Array;
  /** At least 1; the context's end is within it. */
  readonly maxTokens: number;
  readonly sampling: SamplerConfig;
  /** Draws depend on it and the position; undefined when greedy or when no seed was asked for. */
  readonly seed: bigint | undefined;
  readonly penalised: boolean;
  /** Evaluated in shapes of its own, so that a repetition is equal to the bit; see batch.ts. */
  readonly exact: boolean;
  /** Alternatives per token; undefined means no log probabilities. */
  readonly logprobs: number | undefined;
  readonly stop: readonly string[];
  readonly grammar: GrammarState | undefined;
  readonly grammarField: string;
  /** Text to repeat before the generated one. */
  readonly echo: string;
  readonly priority: number;
}

export interface PlannerParts {
  readonly model: NativeModel;
  readonly vocabulary: Vocabulary;
  readonly template: ChatTemplate;
  readonly prefixes: LanePrefixes | undefined;
  /** Tokens one sequence may use. */
  readonly contextTokens: number;
  readonly random: Random;
}

const limits = {
  stops: 16,
  stopLength: 256,
  topLogprobs: 20,
  biases: 1_024,
  bias: 100,
  priority: 9,
  defaultPriority: 5,
};

/** Turns requests into plans; throws a MeshError that names the field of whatever it cannot honour. */
export class Planner {
  readonly #parts: PlannerParts;

  constructor(parts: PlannerParts) {
    this.#parts = parts;
  }

  plan(request: GenerateRequest, choiceIndex: number, generated: Uint32Array): Plan {
    const { contextTokens, model } = this.#parts;
    if (model.embedsOnly) throw unsupported("This model only embeds; it cannot generate text.", "model");
    const promptTokens = this.#fittingPrompt(request);
    const room = contextTokens - promptTokens.length;
    if (request.maxOutputTokens === 0)
      throw invalid("max_output_tokens is 0; ask for at least 1.", "max_output_tokens");
    checkStops(request.stop);
    const logprobs = request.logprobs?.top;
    if (logprobs !== undefined) checkRange("logprobs.top", logprobs, 0, limits.topLogprobs);
    const priority = request.priority ?? limits.defaultPriority;
    checkRange("priority", priority, 0, limits.priority);
    const seed = seedOf(request.sampling, choiceIndex);
    const sampling = this.#sampling(
      request.sampling,
      generated.length === 0 ? promptTokens : joined(promptTokens, generated),
    );
    const grammar = this.#grammar(request);
    const maxTokens = Math.min(room, request.maxOutputTokens ?? room);
    this.#checkGenerated(generated, maxTokens, grammar?.state);
    return {
      promptTokens,
      blocks: this.#parts.prefixes?.blocks(request) ?? new Uint32Array(0),
      generated,
      maxTokens,
      sampling: grammar ? { ...sampling, grammarEvaluationState: grammar.state.native } : sampling,
      seed,
      exact: seed !== undefined,
      penalised: sampling.repeatPenaltyTokens !== undefined,
      logprobs,
      stop: request.stop,
      grammar: grammar?.state,
      grammarField: grammar?.field ?? "",
      echo: request.echo ? this.#echo(request) : "",
      priority,
    };
  }

  /** Brings the grammar to the state behind the tokens; throws where they cannot be this model's and this request's. */
  #checkGenerated(generated: Uint32Array, maxTokens: number, grammar: GrammarState | undefined): void {
    const { model, vocabulary } = this.#parts;
    if (generated.length > maxTokens) {
      throw cannotContinue(`it has ${generated.length} tokens and may have ${maxTokens}`);
    }
    for (const token of generated) {
      if (token >= vocabulary.size) throw cannotContinue(`token id ${token} is not in its vocabulary`);
      if (vocabulary.endsGeneration(token)) throw cannotContinue(`token id ${token} ends a text`);
      if (grammar && !model.acceptToken(grammar, token)) {
        throw cannotContinue("the format that the request demands does not allow what was generated");
      }
    }
  }

  /** A text that cannot fit however it is cut is refused before the work of cutting it, which would hold up all others. */
  #fittingPrompt({ input }: GenerateRequest): Uint32Array {
    const { contextTokens, vocabulary, template } = this.#parts;
    const field = input.case === "chat" ? "chat.messages" : (input.case ?? "input");
    const refuse = (count: string): MeshError => {
      const message = `The prompt has ${count} tokens; this model's context is ${contextTokens} tokens, prompt and answer together. Shorten it.`;
      return new MeshError(Reason.CONTEXT_LENGTH_EXCEEDED, message, { field, limit: `${contextTokens} tokens` });
    };
    const chat = input.case === "chat" ? template.render(input.value) : [];
    const text = input.case === "prompt" ? input.value : chat.map(textOfPart).join("");
    const fewest = vocabulary.fewestTokens(text);
    if (fewest >= contextTokens) throw refuse(`at least ${fewest}`);
    const tokens = input.case === "chat" ? vocabulary.tokenizeParts(chat) : this.promptTokens(input);
    if (tokens.length >= contextTokens) throw refuse(`${tokens.length}`);
    return tokens;
  }

  promptTokens(input: GenerateRequest["input"] | CountTokensRequest["input"]): Uint32Array {
    const { vocabulary, template } = this.#parts;
    switch (input.case) {
      case "chat":
        return vocabulary.tokenizeParts(template.render(input.value));
      case "prompt": {
        if (input.value === "") throw invalid("prompt is empty; send at least one character.", "prompt");
        return vocabulary.tokenize(input.value);
      }
      case "tokens":
        return this.tokenIds(input.value, "tokens.ids");
      case undefined:
        throw invalid("One of chat, prompt and tokens is required.", "input");
    }
  }

  tokenIds(input: TokenInput, field: string): Uint32Array {
    if (input.ids.length === 0) throw invalid(`${field} is empty; send at least one token id.`, field);
    const { size } = this.#parts.vocabulary;
    const foreign = input.ids.findIndex((id) => id >= size);
    if (foreign >= 0) {
      throw invalid(
        `${field}[${foreign}] is ${input.ids[foreign]}; this model's vocabulary has ${size} tokens.`,
        `${field}[${foreign}]`,
      );
    }
    return Uint32Array.from(input.ids);
  }

  /**
   * The binding truncates (top_k, top_p, min_p, in this order) and then applies the temperature. Penalties look at all
   * that stands in the sequence, prompt included, so that a call continued elsewhere is penalised alike.
   */
  #sampling(sampling: Sampling | undefined, promptTokens: Uint32Array): SamplerConfig {
    const config: SamplerConfig = {};
    const temperature = sampling?.temperature ?? 1;
    checkRange("sampling.temperature", temperature, 0, 2);
    const topP = sampling?.topP ?? 1;
    checkRange("sampling.top_p", topP, 0, 1);
    const minP = sampling?.minP ?? 0;
    checkRange("sampling.min_p", minP, 0, 1);
    const frequency = sampling?.frequencyPenalty ?? 0;
    checkRange("sampling.frequency_penalty", frequency, -2, 2);
    const presence = sampling?.presencePenalty ?? 0;
    checkRange("sampling.presence_penalty", presence, -2, 2);
    const topK = Math.min(sampling?.topK ?? 0, this.#parts.vocabulary.size);
    if (temperature > 0) {
      config.temperature = temperature;
      // A seed that the call leaves open is drawn here: the binding would take the second on the clock.
      config.seed = Math.floor(this.#parts.random.next() * 2 ** 32);
      if (topK > 0) config.topK = topK;
      if (topP < 1) config.topP = topP;
      if (minP > 0) config.minP = minP;
    }
    if (frequency !== 0 || presence !== 0) {
      config.repeatPenaltyTokens = promptTokens;
      config.repeatPenaltyMaxTokens = this.#parts.contextTokens;
      config.repeatPenaltyFrequencyPenalty = frequency;
      config.repeatPenaltyPresencePenalty = presence;
    }
    const biases = Object.entries(sampling?.logitBias ?? {});
    if (biases.length > 0) {
      checkRange("sampling.logit_bias' entries", biases.length, 0, limits.biases);
      for (const [id, bias] of biases) {
        checkRange(`sampling.logit_bias[${id}]`, bias, -limits.bias, limits.bias);
        checkRange("sampling.logit_bias' token id", Number(id), 0, this.#parts.vocabulary.size - 1);
      }
      config.tokenBiasKeys = Uint32Array.from(biases, ([id]) => Number(id));
      config.tokenBiasValues = Float32Array.from(biases, ([, bias]) => bias);
    }
    return config;
  }

  #grammar(request: GenerateRequest): { state: GrammarState; field: string } | undefined {
    const grammar = outputGrammar(request);
    if (!grammar) return undefined;
    const { field } = grammar;
    try {
      return { state: this.#parts.model.newGrammar(grammar.text), field };
    } catch (error) {
      const message =
        field === "response_format.grammar"
          ? `${field} is no valid GBNF grammar with a rule named root; see llama.cpp's grammars/README.md.`
          : `${field} makes a grammar that llama.cpp refuses; simplify it.`;
      throw new MeshError(Reason.INVALID_REQUEST, message, { field, cause: error });
    }
  }

  #echo(request: GenerateRequest): string {
    if (request.logprobs) {
      throw unsupported(
        "echo with logprobs would need log probabilities of the prompt, which this engine does not compute.",
        "echo",
      );
    }
    switch (request.input.case) {
      case "prompt":
        return request.input.value;
      case "tokens":
        return this.#parts.vocabulary.text(request.input.value.ids);
      default:
        throw unsupported("echo repeats a prompt or token ids; leave it out with chat.", "echo");
    }
  }
}

function joined(head: Uint32Array, tail: Uint32Array): Uint32Array {
  const whole = new Uint32Array(head.length + tail.length);
  whole.set(head);
  whole.set(tail, head.length);
  return whole;
}

function seedOf(sampling: Sampling | undefined, choiceIndex: number): bigint | undefined {
  if (sampling?.seed === undefined || sampling.temperature === 0) return undefined;
  return BigInt.asUintN(64, sampling.seed + BigInt(choiceIndex));
}

function checkStops(stops: readonly string[]): void {
  if (stops.length > limits.stops)
    throw invalid(`stop has ${stops.length} strings; the most is ${limits.stops}.`, "stop");
  for (const [index, stop] of stops.entries()) {
    checkRange(`stop[${index}]'s length`, stop.length, 1, limits.stopLength);
  }
}

function checkRange(name: string, value: number, low: number, high: number): void {
  if (value >= low && value <= high) return;
  const field = name.replace(/'.*$/, "");
  const message = `${name} is ${value}; it must be from ${low} to ${high}.`;
  throw new MeshError(Reason.INVALID_REQUEST, message, { field, limit: `${low} to ${high}` });
}

function invalid(message: string, field: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message, { field });
}

function unsupported(message: string, field: string): MeshError {
  return new MeshError(Reason.UNSUPPORTED_PARAMETER, message, { field });
}
