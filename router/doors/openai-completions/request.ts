import { create } from "@bufbuild/protobuf";
import { type GenerateRequest, GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Fields, invalid, listAt, textAt, unsupported, wrong } from "../openai/fields.ts";
import {
  present,
  readChoiceCount,
  readEndUser,
  readLabels,
  readModel,
  readPriority,
  readSampling,
  readStop,
  readStreamOptions,
  tokenIdsAt,
} from "../openai/parameters.ts";

export interface CompletionRequest {
  /** One call a prompt, in order. */
  readonly generates: readonly GenerateRequest[];
  /** Where each call's prompt stands in the body, such as `prompt[1]`. */
  readonly promptPaths: readonly string[];
  /** Choices of one prompt; choice c of prompt p has the index p × choiceCount + c. */
  readonly choiceCount: number;
  readonly stream: boolean;
  readonly includeUsage: boolean;
}

interface Prompt {
  readonly path: string;
  readonly input: Input;
}

type Input = Extract<GenerateRequest["input"], { case: "prompt" }> | { case: "tokens"; value: { ids: number[] } };

/** OpenAI's default, unlike chat's. */
const defaultMaxTokens = 16;

/** One HTTP request may not start more calls than this. */
const mostPrompts = 128;

/** OpenAI API reference, "Create completion". @throws MeshError INVALID_REQUEST, UNSUPPORTED_PARAMETER */
export function readCompletionRequest(body: unknown): CompletionRequest {
  const fields = new Fields(body, "");
  const model = readModel(fields);
  const prompts = readPrompts(fields);
  const choiceCount = readChoiceCount(fields);
  const top = fields.integer("logprobs", 0, 20);
  const echo = fields.boolean("echo") ?? false;
  if (echo && top !== undefined) {
    throw unsupported(
      "echo",
      "echo together with logprobs is not supported: prompt tokens have no log probabilities here; leave one out.",
    );
  }
  const common = {
    model,
    stop: readStop(fields),
    choiceCount,
    labels: readLabels(fields),
    // 0 is for those who only want their prompt back.
    maxOutputTokens: fields.integer("max_tokens", echo ? 0 : 1, 0xffff_ffff) ?? defaultMaxTokens,
    echo,
    ...present({
      sampling: readSampling(fields),
      logprobs: top === undefined ? undefined : { top },
      priority: readPriority(fields),
    }),
  };
  const generates = prompts.map(({ input }) => create(GenerateRequestSchema, { ...common, input }));
  const promptPaths = prompts.map(({ path }) => path);
  const { stream, includeUsage } = readStreamOptions(fields);
  readEndUser(fields);
  fields.noOp("best_of", [choiceCount]);
  fields.noOp("suffix", [""]);
  fields.end();
  return { generates, promptPaths, choiceCount, stream, includeUsage };
}

function readPrompts(fields: Fields): Prompt[] {
  const prompt = fields.required("prompt", fields.raw("prompt"), "a string or an array");
  const path = "prompt";
  if (typeof prompt === "string") return [{ path, input: { case: "prompt", value: prompt } }];
  if (!Array.isArray(prompt))
    throw wrong(path, prompt, "a string, an array of strings, token ids, or an array of arrays of token ids");
  if (prompt.length === 0) throw invalid(path, "prompt is an empty array; expected at least one entry.");
  if (typeof prompt[0] === "number") return [{ path, input: tokens(path, prompt) }];
  return listAt(path, prompt, 1, mostPrompts).map((value, i) => {
    const path = `prompt[${i}]`;
    if (Array.isArray(value)) return { path, input: tokens(path, listAt(path, value, 1, Number.POSITIVE_INFINITY)) };
    return { path, input: { case: "prompt", value: textAt(path, value, 0, Number.POSITIVE_INFINITY) } };
  });
}

function tokens(path: string, ids: readonly unknown[]): Input {
  return { case: "tokens", value: { ids: tokenIdsAt(path, ids) } };
}
