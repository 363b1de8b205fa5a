import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { answerText, tokenText } from "./answer.ts";
import type { BedEngine, EngineCall } from "./engine.ts";
import { type CountedPrompt, promptOfChat } from "./prompt.ts";

/** What the door reads of a chat request. */
interface Body {
  readonly model: string;
  readonly stream?: boolean;
  readonly max_tokens?: number;
  readonly max_completion_tokens?: number;
  readonly messages: readonly { readonly role: string; readonly content: string }[];
}

export interface OpenAiDoor {
  readonly port: number;
  close(): void;
}

/** `/v1/chat/completions` straight on an engine: what stands behind a gateway that speaks OpenAI on both sides. */
export async function openOpenAiDoor(engine: BedEngine): Promise<OpenAiDoor> {
  const server: Server = createServer((request, response) => {
    const path = request.url?.split("?", 1)[0] ?? "";
    if (request.method === "POST" && path.endsWith("/chat/completions")) void chat(engine, request, response);
    else if (path.endsWith("/models")) sendJson(response, { object: "list", data: [{ id: "bench", object: "model" }] });
    else if (path === "/health") sendJson(response, {});
    else sendJson(response, { error: { message: `There is no ${path} here.` } }, 404);
  });
  server.keepAliveTimeout = 600_000;
  server.listen({ port: 0, host: "127.0.0.1", backlog: 16_384 });
  await once(server, "listening");
  return { port: (server.address() as AddressInfo).port, close: () => void server.close() };
}

async function chat(engine: BedEngine, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  const body = JSON.parse(text) as Body;
  const prompt = promptOfChat(body, text.length);
  const tokens = body.max_completion_tokens ?? body.max_tokens ?? 16;
  const call = body.stream ? stream(engine, response, tokens, prompt) : whole(engine, response, tokens, prompt);
  response.once("close", () => call.cancel());
}

function whole(engine: BedEngine, response: ServerResponse, tokens: number, prompt: CountedPrompt): EngineCall {
  return engine.start(tokens, prompt, {
    advance({ last }) {
      if (!last) return;
      const message = { role: "assistant", content: answerText(tokens) };
      const choices = [{ index: 0, message, logprobs: null, finish_reason: "length" }];
      sendJson(response, { ...head, object: "chat.completion", choices, usage: usageOf(prompt, tokens) });
    },
  });
}

function stream(engine: BedEngine, response: ServerResponse, tokens: number, prompt: CountedPrompt): EngineCall {
  return engine.start(tokens, prompt, {
    advance({ index, first, last }) {
      if (first) {
        response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
        response.flushHeaders();
      }
      // Chunked encoding by hand: node:http would write its length apart.
      if (!last) return void response.socket?.write(chunkOf(index));
      response.socket?.write(chunkOf(index));
      const choices = [{ index: 0, delta: {}, logprobs: null, finish_reason: "length" }];
      response.end(
        `${event({ ...chunkHead, choices })}${event({ ...chunkHead, choices: [], usage: usageOf(prompt, tokens) })}data: [DONE]\n\n`,
      );
    },
  });
}

const head = { id: "chatcmpl-bench", created: 1_700_000_000, model: "bench" } as const;
const chunkHead = { ...head, object: "chat.completion.chunk" } as const;
const chunks: Buffer[] = [];

/** Token `index` as an event in a chunk of HTTP/1.1. */
function chunkOf(index: number): Buffer {
  return (chunks[index] ??= encodeChunk(index));
}

function encodeChunk(index: number): Buffer {
  const delta = { ...(index === 0 ? { role: "assistant" } : {}), content: tokenText(index) };
  const text = event({ ...chunkHead, choices: [{ index: 0, delta, logprobs: null, finish_reason: null }] });
  return Buffer.from(`${text.length.toString(16)}\r\n${text}\r\n`);
}

function event(value: unknown): string {
  return `data: ${JSON.stringify(value)}\n\n`;
}

function usageOf(prompt: CountedPrompt, tokens: number) {
  return { prompt_tokens: prompt.tokens, completion_tokens: tokens, total_tokens: prompt.tokens + tokens };
}

function sendJson(response: ServerResponse, value: unknown, status = 200): void {
  const text = JSON.stringify(value);
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
  response.end(text);
}
