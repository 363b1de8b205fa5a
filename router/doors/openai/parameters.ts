import type { MessageInitShape } from "@bufbuild/protobuf";
import type { SamplingSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type Fields, integerAt, invalid, listAt, numberAt, textAt, wrong } from "./fields.ts";

const largestUint32 = 0xffff_ffff;

export function readModel(fields: Fields): string {
  return fields.requiredText("model", 1, 256);
}

/** How tokens are drawn; undefined leaves everything to the contract's defaults, which are OpenAI's. */
export function readSampling(fields: Fields): MessageInitShape<typeof SamplingSchema> | undefined {
  const seed = fields.integer("seed", Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  const sampling = present({
    temperature: fields.number("temperature", 0, 2),
    topP: fields.number("top_p", 0, 1),
    topK: fields.integer("top_k", 0, largestUint32),
    minP: fields.number("min_p", 0, 1),
    frequencyPenalty: fields.number("frequency_penalty", -2, 2),
    presencePenalty: fields.number("presence_penalty", -2, 2),
    // OpenAI's seeds are signed, the contract's are not: each negative one has its own place above 2^63.
    seed: seed === undefined ? undefined : BigInt.asUintN(64, BigInt(seed)),
    logitBias: readLogitBias(fields),
  });
  return Object.keys(sampling).length === 0 ? undefined : sampling;
}

function readLogitBias(fields: Fields): { [tokenId: number]: number } | undefined {
  const entries = fields.entries("logit_bias", 1_024);
  if (entries.length === 0) return undefined;
  const biases: { [tokenId: number]: number } = {};
  for (const [key, value] of entries) {
    if (!/^[0-9]{1,10}$/.test(key) || Number(key) > largestUint32) {
      throw invalid("logit_bias", `logit_bias has the key ${JSON.stringify(key.slice(0, 40))}; expected token ids.`);
    }
    biases[Number(key)] = numberAt(`logit_bias.${key}`, value, -100, 100);
  }
  return biases;
}

/** A string or a list of up to 16; none, an empty list and null mean the same. */
export function readStop(fields: Fields): string[] {
  const stop = fields.raw("stop");
  if (stop === undefined) return [];
  if (typeof stop === "string") return [textAt("stop", stop, 1, 256)];
  if (!Array.isArray(stop)) throw wrong("stop", stop, "a string or an array of up to 16 strings");
  return listAt("stop", stop, 0, 16).map((value, i) => textAt(`stop[${i}]`, value, 1, 256));
}

/** OpenAI's `metadata` becomes the labels of the usage record. */
export function readLabels(fields: Fields): { [key: string]: string } {
  const given = fields.entries("metadata", 16);
  if (given.length === 0) return {};
  const entries = given.map(([key, value]) => {
    if (key.length === 0 || key.length > 128) {
      throw invalid("metadata", `metadata has a key of ${key.length} characters; expected 1 to 128.`, "128 characters");
    }
    return [key, textAt(`metadata.${key}`, value, 0, 128)] as const;
  });
  // fromEntries defines properties: a key `__proto__` is a label like any other.
  return Object.fromEntries(entries);
}

/** Beyond OpenAI: 0 (background) to 9 (most urgent), as in the contract. */
export function readPriority(fields: Fields): number | undefined {
  return fields.integer("priority", 0, 9);
}

export function readChoiceCount(fields: Fields): number {
  return fields.integer("n", 1, 16) ?? 1;
}

export interface StreamOptions {
  readonly stream: boolean;
  readonly includeUsage: boolean;
}

export function readStreamOptions(fields: Fields): StreamOptions {
  const stream = fields.boolean("stream") ?? false;
  const options = fields.object("stream_options");
  if (options && !stream) throw invalid("stream_options", "stream_options is only allowed when stream is true.");
  const includeUsage = options?.boolean("include_usage") ?? false;
  options?.noOp("include_obfuscation", [false]);
  options?.end();
  return { stream, includeUsage };
}

/** A list of token ids; `value` is known to be an array. */
export function tokenIdsAt(path: string, value: readonly unknown[]): number[] {
  return value.map((id, i) => integerAt(`${path}[${i}]`, id, 0, largestUint32));
}

/** `user` and the like: accepted for compatibility, without effect. */
export function readEndUser(fields: Fields): void {
  fields.text("user");
}

type Present<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

/** Without the properties that are undefined, as exact optional properties want it. */
export function present<T extends object>(values: T): Present<T> {
  const kept: Partial<T> = {};
  for (const name in values) if (values[name] !== undefined) kept[name] = values[name];
  return kept as Present<T>;
}
