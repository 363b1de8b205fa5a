import { create } from "@bufbuild/protobuf";
import { type GenerateRequest, GenerateRequestSchema, Role } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { defaultBlockBytes, promptBlocks } from "#kernel/prompt-blocks.ts";
import type { EngineCall, Prompt } from "./engine.ts";

export const prefixBlockBytes = defaultBlockBytes;

/** Of a prompt, tokens are counted as a quarter of its bytes, which is about what English takes. */
const bytesPerToken = 4;

/** Prompts longer than this are for measuring bytes, not prefixes, and are not hashed. */
const longestHashedBytes = 65_536;

export interface CountedPrompt extends Prompt {
  readonly tokens: number;
  cachedTokens(call: EngineCall): number;
}

export function promptOf(request: GenerateRequest, bytes: number): CountedPrompt {
  const hashed = bytes >= prefixBlockBytes && bytes <= longestHashedBytes;
  return {
    bytes,
    blocks: hashed
      ? promptBlocks(request, prefixBlockBytes, longestHashedBytes / prefixBlockBytes)
      : new Uint32Array(0),
    tokens: Math.max(1, Math.round(bytes / bytesPerToken)),
    cachedTokens: ({ cachedBlocks }) => Math.floor((cachedBlocks * prefixBlockBytes) / bytesPerToken),
  };
}

interface ChatBody {
  readonly model: string;
  readonly messages: readonly { readonly role: string; readonly content: string | readonly { text?: string }[] }[];
}

const roles: Readonly<Record<string, Role>> = { system: Role.SYSTEM, user: Role.USER, assistant: Role.ASSISTANT };

/** The same of an OpenAI chat request, so that prefixes are equal whichever door they come through. */
export function promptOfChat({ model, messages }: ChatBody, bytes: number): CountedPrompt {
  const text = (content: ChatBody["messages"][number]["content"]): string =>
    typeof content === "string" ? content : content.map((part) => part.text ?? "").join("");
  const value = {
    messages: messages.map(({ role, content }) => ({ role: roles[role] ?? Role.USER, content: text(content) })),
  };
  return promptOf(create(GenerateRequestSchema, { model, input: { case: "chat", value } }), bytes);
}
