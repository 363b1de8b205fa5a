/**
 * The only file that touches node-llama-cpp, and the only one that reaches below its public API, to the addon's own
 * context and sampler. Why: the public `LlamaContextSequence` takes a lock and several promises for each token of each
 * sequence, and shifts the context silently; the addon takes one call for a whole batch. Its shape is not promised
 * between versions, so the version is pinned in package.json, checked here, and each member is checked when bound.
 */
import type { Llama, LlamaModel } from "node-llama-cpp";

const pinnedVersion = "3.22.1";

/** Constrains what may follow; it remembers the tokens accepted so far. */
export interface GrammarState {
  readonly native: object;
}

export interface SamplerConfig {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  seed?: number;
  repeatPenaltyTokens?: Uint32Array;
  repeatPenaltyMaxTokens?: number;
  repeatPenaltyPresencePenalty?: number;
  repeatPenaltyFrequencyPenalty?: number;
  tokenBiasKeys?: Uint32Array;
  tokenBiasValues?: Float32Array;
  grammarEvaluationState?: object;
}

/** One sequence's chain of samplers. Without a temperature it is greedy. */
export interface Sampler {
  applyConfig(config: SamplerConfig): void;
  dispose(): void;
}

/** Result of a draw with details: [token, -, -, [token, logit, …], sum of exp(logit - highest logit)]. */
type DetailedDraw = [number, unknown, unknown, number[] | undefined, number | undefined];

interface AddonContext {
  initBatch(tokens: number): void;
  addToBatch(sequence: number, position: number, tokens: Uint32Array, logitIndexes: Uint32Array): Uint32Array;
  decodeBatch(): Promise<void>;
  sampleToken(logitIndex: number, sampler: Sampler): Promise<number>;
  sampleToken(
    logitIndex: number,
    sampler: Sampler,
    probabilities: boolean,
    confidence: boolean,
    logits: readonly [readonly number[], boolean, boolean, boolean, number],
    totalLogitWeight: boolean,
  ): Promise<DetailedDraw>;
  disposeSequence(sequence: number): void;
  removeTokenCellsFromSequence(sequence: number, from: number, to: number): boolean;
  getEmbedding(inputTokens: number): Float64Array;
}

interface AddonModel {
  tokenize(text: string, specialTokens: boolean): Uint32Array;
  detokenize(tokens: Uint32Array, specialTokens: boolean): string;
  tokenBos(): number;
  getTokenString(token: number): string | undefined;
  getTokenAttributes(token: number): number;
  isEogToken(token: number): boolean;
  getVocabularyType(): number;
  shouldPrependBosToken(): boolean;
  getEmbeddingVectorSize(): number;
  getTrainContextSize(): number;
}

interface Bindings {
  readonly AddonSampler: (new (model: AddonModel) => Sampler) & {
    acceptGrammarEvaluationStateToken(state: object, token: number): void;
    canBeNextTokenForGrammarEvaluationState(state: object, token: number): boolean;
  };
  readonly AddonGrammar: new (text: string, options: { addonExports: object; rootRuleName: string }) => object;
  readonly AddonGrammarEvaluationState: new (model: AddonModel, grammar: object) => object;
  getMathCores(): number;
}

export interface ModelFile {
  readonly path: string;
  /** "auto", "off" or a backend's name. */
  readonly gpu: "auto" | "off" | "cuda" | "vulkan" | "metal";
  /** Layers on the GPU; undefined means as many as fit. */
  readonly gpuLayers: number | undefined;
  onProgress(share: number): void;
  onLog(level: string, message: string): void;
}

export interface ContextShape {
  readonly sequences: number;
  /** Tokens of each sequence. */
  readonly contextTokens: number;
  /** Most tokens of one decode step. */
  readonly batchTokens: number;
  /** 0 means chosen by the model's size. */
  readonly threads: number;
  readonly flashAttention: "auto" | boolean;
}

/** A loaded model and everything that can be made of it. */
export class NativeModel {
  readonly #llama: Llama;
  readonly #model: LlamaModel;
  readonly #bindings: Bindings;
  readonly addon: AddonModel;
  /** The binding holds its contexts weakly and waits for them in `dispose`: one that was collected is never over. */
  readonly #contexts: unknown[] = [];

  private constructor(llama: Llama, model: LlamaModel) {
    this.#llama = llama;
    this.#model = model;
    const bindings = member(llama, "_bindings");
    assertMembers(bindings, "bindings", ["AddonSampler", "AddonGrammar", "AddonGrammarEvaluationState"]);
    const grammarMembers = ["acceptGrammarEvaluationStateToken", "canBeNextTokenForGrammarEvaluationState"];
    assertMembers(member(bindings, "AddonSampler"), "sampler", grammarMembers);
    this.#bindings = bindings as Bindings;
    const addon = member(model, "_model");
    assertMembers(addon, "model", ["tokenize", "detokenize", "getTokenString", "getTokenAttributes", "isEogToken"]);
    this.addon = addon as AddonModel;
  }

  static async load(file: ModelFile): Promise<NativeModel> {
    const library = await import("node-llama-cpp");
    const version = await library.getModuleVersion();
    if (version !== pinnedVersion) {
      throw new Error(
        `node-llama-cpp ${version} is installed; this engine is made for ${pinnedVersion}: install that one`,
      );
    }
    const llama = await library.getLlama({
      build: "never",
      skipDownload: true,
      progressLogs: false,
      gpu: file.gpu === "off" ? false : file.gpu,
      logLevel: library.LlamaLogLevel.log,
      logger: (level, message) => file.onLog(level, message),
    });
    const model = await llama.loadModel({
      modelPath: file.path,
      ...(file.gpuLayers === undefined ? {} : { gpuLayers: file.gpuLayers }),
      onLoadProgress: (share) => file.onProgress(share),
    });
    return new NativeModel(llama, model);
  }

  /** Tokens of context that the file declares. */
  get trainedContext(): number {
    return this.#model.trainContextSize;
  }

  /** Empty when the file has none. */
  get chatTemplate(): string {
    return this.#model.fileInfo.metadata.tokenizer?.chat_template ?? "";
  }

  get vocabularySize(): number {
    return this.#model.fileInfo.metadata.tokenizer.ggml.tokens.length;
  }

  get bosText(): string {
    return this.#model.tokens.bosString ?? "";
  }

  get eosText(): string {
    return this.#model.tokens.eosString ?? "";
  }

  /** A model that was made to embed (its file names a pooling) cannot generate. */
  get embedsOnly(): boolean {
    const { metadata } = this.#model.fileInfo;
    const own: unknown = Reflect.get(metadata, metadata.general.architecture);
    return typeof own === "object" && own !== null && "pooling_type" in own;
  }

  /** Small models lose more at llama.cpp's barriers than they gain from threads. */
  threadsFor(wanted: number): number {
    if (wanted > 0) return wanted;
    return this.#model.size < 100_000_000 ? 1 : Math.max(1, this.#bindings.getMathCores());
  }

  async openContext(shape: ContextShape): Promise<AddonContext> {
    const context = await this.#model.createContext({
      sequences: shape.sequences,
      contextSize: shape.contextTokens,
      batchSize: shape.batchTokens,
      threads: this.threadsFor(shape.threads),
      flashAttention: shape.flashAttention,
      // A model with sliding windows forgets cells otherwise, and a prefix could not be used again.
      swaFullCache: true,
    });
    this.#contexts.push(context);
    return boundContext(context);
  }

  /** Reads one input at a time: a mean or CLS pooling needs it in one batch. */
  async openEmbedding(contextTokens: number, threads: number): Promise<AddonContext> {
    const embedding = await this.#model.createEmbeddingContext({
      contextSize: contextTokens,
      batchSize: contextTokens,
      threads: this.threadsFor(threads),
    });
    this.#contexts.push(embedding);
    return boundContext(member(embedding, "_llamaContext"));
  }

  newSampler(): Sampler {
    return new this.#bindings.AddonSampler(this.addon);
  }

  /** Throws when the text is no valid GBNF. */
  newGrammar(text: string): GrammarState {
    const grammar = new this.#bindings.AddonGrammar(text, { addonExports: this.#bindings, rootRuleName: "root" });
    return { native: new this.#bindings.AddonGrammarEvaluationState(this.addon, grammar) };
  }

  /** Moves the grammar past a token that was drawn elsewhere; false when it does not allow that token. */
  acceptToken({ native }: GrammarState, token: number): boolean {
    const { AddonSampler } = this.#bindings;
    if (!AddonSampler.canBeNextTokenForGrammarEvaluationState(native, token)) return false;
    AddonSampler.acceptGrammarEvaluationStateToken(native, token);
    return true;
  }

  async close(): Promise<void> {
    await this.#llama.dispose();
    this.#contexts.length = 0;
  }
}

export type { AddonContext, AddonModel };

function boundContext(context: unknown): AddonContext {
  const addon = member(context, "_ctx");
  assertMembers(addon, "context", ["initBatch", "addToBatch", "decodeBatch", "sampleToken", "getEmbedding"]);
  return addon as AddonContext;
}

function member(owner: unknown, name: string): unknown {
  return (typeof owner === "object" && owner !== null) || typeof owner === "function"
    ? Reflect.get(owner, name)
    : undefined;
}

function assertMembers(value: unknown, what: string, names: readonly string[]): void {
  const missing = names.filter((name) => typeof member(value, name) !== "function");
  if (missing.length > 0) {
    throw new Error(`node-llama-cpp ${pinnedVersion} was expected, but its ${what} lacks ${missing.join(", ")}`);
  }
}
