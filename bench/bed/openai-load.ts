import { Agent, type IncomingMessage, request } from "node:http";
import { seededRandom } from "#kernel/random.ts";
import { answerText } from "./answer.ts";
import { Conversations, type Message } from "./conversations.ts";
import type { Job, Load, Tally } from "./job.ts";
import { promptText } from "./prompt-text.ts";

interface Chunk {
  readonly error?: unknown;
  readonly choices?: readonly {
    readonly delta?: { readonly content?: string | null };
    readonly message?: { readonly content?: string | null };
  }[];
}

/** Chat completions over HTTP/1.1 connections that are kept open. */
export function openOpenAiLoad(job: Job, tally: Tally): Load {
  const agent = new Agent({ keepAlive: true, maxSockets: job.connections, maxFreeSockets: job.connections });
  const fixed = bodyOf(job, [{ role: "user", content: promptText(job.promptBytes) }]);
  const trace = job.trace && new Conversations(job.trace, seededRandom(job.trace.seed));
  const headers = { "content-type": "application/json", authorization: `Bearer ${job.key}`, ...job.headers };
  const options = { host: "127.0.0.1", port: job.port, path: "/v1/chat/completions", method: "POST", agent };
  return {
    start(arrivedMs, onDone) {
      tally.started += 1;
      const conversation = trace?.take();
      const body = conversation ? bodyOf(job, conversation.messages) : fixed;
      const call = new Call(job, tally, arrivedMs);
      const done = (): void => {
        if (conversation) trace?.answered(conversation, job.tokens);
        onDone();
      };
      const outgoing = request({ ...options, headers: { ...headers, "content-length": body.length } }, (response) => {
        response.on("data", (bytes: Buffer) => call.take(response, bytes));
        response.on("end", () => call.end());
        response.on("error", (error) => call.fail(error.message));
        response.on("close", done);
      });
      outgoing.on("error", (error) => {
        call.fail(error.message);
        done();
      });
      outgoing.end(body);
    },
    close: () => agent.destroy(),
  };
}

function bodyOf({ tokens, protocol }: Job, messages: readonly Message[]): Buffer {
  const stream = protocol === "sse" ? { stream: true } : {};
  return Buffer.from(JSON.stringify({ model: "bench", max_tokens: tokens, messages, ...stream }));
}

const answers = new Map<number, string>();

function expectedAnswer(tokens: number): string {
  const known = answers.get(tokens);
  if (known !== undefined) return known;
  const text = answerText(tokens);
  answers.set(tokens, text);
  return text;
}

/** Checks that the texts of all events, put together, are the engines' answer, and that the stream ends as it should. */
class Call {
  readonly #job: Job;
  readonly #tally: Tally;
  readonly #expected: string;
  #lastMs: number;
  #rest = "";
  #length = 0;
  #done = false;
  #fault: string | undefined;

  constructor(job: Job, tally: Tally, arrivedMs: number) {
    this.#job = job;
    this.#tally = tally;
    this.#lastMs = arrivedMs;
    this.#expected = expectedAnswer(job.tokens);
  }

  take(response: IncomingMessage, bytes: Buffer): void {
    if (response.statusCode !== 200) return this.fail(`HTTP ${response.statusCode}: ${bytes.toString().slice(0, 300)}`);
    this.#rest += bytes.toString("latin1");
    if (this.#job.protocol === "chat") return;
    let at = 0;
    for (;;) {
      const end = this.#rest.indexOf("\n\n", at);
      if (end < 0) break;
      this.#event(this.#rest.slice(at, end));
      at = end + 2;
    }
    this.#rest = this.#rest.slice(at);
  }

  end(): void {
    const { protocol, tokens } = this.#job;
    if (protocol === "chat" && this.#fault === undefined) {
      const content = (JSON.parse(this.#rest) as Chunk).choices?.[0]?.message?.content ?? "";
      this.#text(content);
      this.#done = true;
    }
    if (this.#length !== this.#expected.length) this.fail(`${this.#length} of ${this.#expected.length} bytes came`);
    if (!this.#done) this.fail("no [DONE] came");
    if (this.#fault !== undefined) return;
    this.#tally.calls += 1;
    if (protocol === "chat") this.#tally.tokens += tokens;
  }

  fail(fault: string): void {
    if (this.#fault !== undefined) return;
    this.#fault = fault;
    this.#tally.fault(fault);
  }

  #event(event: string): void {
    if (event.startsWith(":")) return;
    if (!event.startsWith("data: ")) return this.fail(`no event: ${event.slice(0, 100)}`);
    // An event may have an id behind its data.
    const [data = ""] = event.slice(6).split("\n", 1);
    if (data === "[DONE]") {
      this.#done = true;
      return;
    }
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error !== undefined) this.fail(data.slice(0, 300));
    const content = chunk.choices?.[0]?.delta?.content;
    if (content) this.#text(content);
  }

  /** A gateway may put tokens together. */
  #text(content: string): void {
    const first = this.#length === 0;
    if (!this.#expected.startsWith(content, this.#length)) this.fail(`"${content}" is not the text expected`);
    this.#length += content.length;
    if (this.#job.protocol === "sse") this.#tally.tokens += content.split(" ").length - 1;
    const nowMs = performance.now();
    (first ? this.#tally.ttftMs : this.#tally.gapMs).push(nowMs - this.#lastMs);
    this.#lastMs = nowMs;
  }
}
