import { create } from "@bufbuild/protobuf";
import {
  type ChatInput,
  Role,
  type TokenLogprob,
  TokenLogprobSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";

/**
 * The simulator's language. A token is a word with the white space before it. The next token is a function of all
 * tokens before it and the seed alone: a call that moves to another node with its text so far as the prompt goes on
 * identically, whatever the batch it runs in.
 */
const words = `the a of and to in is that it for as with on by at from this or an be are was not have has had but they
which you we one all can more when will there their what some would about out up into time no than so could new like
then them these only other two over first after work long little water people make day way come part place sound back
give most very great where help through much before line right too mean old any same tell boy follow came want show
also around form three small set put end does another well large must big even such because turn here why ask went men
read need land different home us move try kind hand picture again change off play spell air away animal house point
page letter mother answer found study still learn should world high every near add food between own below country plant
last school father keep tree never start city earth eye light thought head under story saw left few while along might
close something seem next hard open example begin life always those both paper together got group often run important
until children side feet car mile night walk white sea began grow took river four carry state once book hear stop
without second later miss idea enough eat face watch far real almost let above girl sometimes mountain cut young talk
soon list song being leave family`
  .split(/\s+/)
  .slice(0, 256);

/** Pieces by id: each word behind a space, each word bare, and two kinds of white space. */
const pieces = [...words.map((word) => ` ${word}`), ...words, "\n", " "];
const idOfPiece = new Map(pieces.map((piece, id) => [piece, id]));
const vocabularySize = 32_768;
const wordCount = words.length;

export interface TokenState {
  /** Hash of all tokens so far and the seed. */
  readonly hash: number;
  /** The next word needs no space before it. */
  readonly afterSpace: boolean;
}

export const simVocabularySize = vocabularySize;

export function tokenize(text: string): number[] {
  return (text.match(/\s?[^\s]+|\s/gu) ?? []).map(
    (piece) => idOfPiece.get(piece) ?? pieces.length + (hashText(piece) % (vocabularySize - pieces.length)),
  );
}

/** ChatML, tools as JSON in front. */
export function renderChat(chat: ChatInput): string {
  const tools = chat.tools.map(({ name, description, parametersJson }) =>
    JSON.stringify({ name, description, parametersJson }),
  );
  const head = tools.length === 0 ? "" : `<|im_start|>system\n<tools>[${tools.join(",")}]</tools><|im_end|>\n`;
  const turns = chat.messages.map((message) => {
    const calls = message.toolCalls.map((call) => `<tool_call>${call.name}${call.argumentsJson}</tool_call>`);
    return `<|im_start|>${roleName(message.role)}\n${message.content}${calls.join("")}<|im_end|>\n`;
  });
  return `${head}${turns.join("")}<|im_start|>assistant\n`;
}

export function initialState(prompt: readonly number[], seed: bigint): TokenState {
  let hash = mix(Number(seed & 0xffffffffn) ^ mix(Number((seed >> 32n) & 0xffffffffn)));
  for (const id of prompt) hash = mix(hash ^ id);
  return { hash, afterSpace: isSpace(prompt.at(-1)) };
}

export function nextToken(state: TokenState): number {
  return (state.hash % wordCount) + (state.afterSpace ? wordCount : 0);
}

export function advance(state: TokenState, token: number): TokenState {
  return { hash: mix(state.hash ^ token), afterSpace: isSpace(token) };
}

export function pieceOf(token: number): string {
  return pieces[token] ?? "\ufffd";
}

/** The drawn token is the likeliest; each rival has half of what is left. */
export function logprobOf(state: TokenState, token: number, top: number): TokenLogprob {
  const drawn = 0.5 + (0.4 * (mix(state.hash ^ 0x51ed) >>> 0)) / 2 ** 32;
  const entry = (id: number, probability: number): TokenLogprob =>
    create(TokenLogprobSchema, {
      token: pieceOf(id),
      tokenBytes: new TextEncoder().encode(pieceOf(id)),
      tokenId: id,
      logprob: Math.log(probability),
    });
  const result = entry(token, drawn);
  const base = token - (token % wordCount);
  for (let rank = 0; rank < top; rank++) {
    // Neighbours in the vocabulary, so that rivals differ from the token and from each other.
    const id = base + (((token % wordCount) + rank) % wordCount);
    result.top.push(entry(id, rank === 0 ? drawn : (1 - drawn) / 2 ** rank));
  }
  return result;
}

/** Unit length; texts that share words are near each other. */
export function embedTokens(tokens: readonly number[], dimensions: number): number[] {
  const vector = Array.from({ length: dimensions }, () => 0);
  for (const token of tokens) {
    let hash = mix(token + 1);
    for (let index = 0; index < dimensions; index++) {
      hash = mix(hash + index);
      vector[index] = (vector[index] ?? 0) + (hash >>> 0) / 2 ** 31 - 1;
    }
  }
  const length = Math.hypot(...vector);
  return vector.map((value) => (length === 0 ? 1 / Math.sqrt(dimensions) : value / length));
}

function isSpace(token: number | undefined): boolean {
  return token !== undefined && token >= 2 * wordCount && token < pieces.length;
}

function roleName(role: Role): string {
  switch (role) {
    case Role.SYSTEM:
      return "system";
    case Role.ASSISTANT:
      return "assistant";
    case Role.TOOL:
      return "tool";
    default:
      return "user";
  }
}

function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  return mix(hash);
}

/** A 32-bit finaliser (murmur3): every input bit moves every output bit. */
function mix(value: number): number {
  let hash = (value + 0x9e3779b9) >>> 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
