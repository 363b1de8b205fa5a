import { request } from "node:http";

export interface Stream {
  readonly text: string;
  /** Milliseconds from sending the request to the first text. */
  readonly ttftMs: number;
  /** By the server's own usage. */
  readonly completionTokens: number;
}

interface Chunk {
  readonly error?: { readonly message: string };
  readonly choices?: readonly { readonly delta?: { readonly content?: string | null } }[];
  readonly usage?: { readonly completion_tokens: number } | null;
}

/**
 * Streams one greedy chat completion over plain HTTP/1.1; the same code reads every contestant. A connection each:
 * llama-server closes its own after a stream, so reuse would race with that.
 */
export function streamStory(baseUrl: string, key: string, question: string, maxTokens: number): Promise<Stream> {
  const body = JSON.stringify({
    model: "pocket",
    stream: true,
    stream_options: { include_usage: true },
    temperature: 0,
    max_tokens: maxTokens,
    messages: [{ role: "user", content: question }],
  });
  const startedMs = performance.now();
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", authorization: `Bearer ${key}` };
    const outgoing = request(
      `${baseUrl}/v1/chat/completions`,
      { method: "POST", headers, agent: false },
      (response) => {
        let text = "";
        let buffered = "";
        let ttftMs = Number.NaN;
        let completionTokens = 0;
        let done = false;
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          buffered += chunk;
          for (let end = buffered.indexOf("\n\n"); end >= 0; end = buffered.indexOf("\n\n")) {
            // An event may have an id behind its data.
            const [data = ""] = buffered
              .slice(0, end)
              .replace(/^data: /, "")
              .split("\n", 1);
            buffered = buffered.slice(end + 2);
            if (data === "[DONE]") {
              done = true;
              continue;
            }
            const parsed = JSON.parse(data) as Chunk;
            if (parsed.error) reject(new Error(parsed.error.message));
            const content = parsed.choices?.[0]?.delta?.content;
            if (content) {
              if (text === "") ttftMs = performance.now() - startedMs;
              text += content;
            }
            if (parsed.usage) completionTokens = parsed.usage.completion_tokens;
          }
        });
        response.on("end", () => {
          if (response.statusCode === 200 && done) resolve({ text, ttftMs, completionTokens });
          else reject(new Error(`HTTP ${response.statusCode}, ${done ? "" : "no [DONE]; "}${buffered.slice(0, 500)}`));
        });
        response.on("error", reject);
      },
    );
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}
