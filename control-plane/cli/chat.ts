import { createInterface } from "node:readline/promises";
import { text as readAll } from "node:stream/consumers";
import { create, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError } from "@connectrpc/connect";
import {
  ChatInputSchema,
  type Finished,
  FinishedSchema,
  type GenerateRequestSchema,
  InferenceService,
  Role,
  type SamplingSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type Command, type Input, UsageError } from "./command.ts";
import { describeFailure } from "./failure.ts";
import { count } from "./format.ts";
import type { Session } from "./session.ts";
import type { Terminal } from "./terminal.ts";

/** To the line's beginning, and nothing of it is left. */
const clearLine = "\r\x1b[2K";

interface Turn {
  readonly role: Role;
  readonly content: string;
}

type Inference = Client<typeof InferenceService>;

/** What is the same for every answer of one run. */
interface Talk {
  readonly client: Inference;
  readonly terminal: Terminal;
  readonly json: boolean;
  /** Somebody looks on, and wants to see what it took and what it waits for. */
  readonly watched: boolean;
  readonly model: string;
  readonly sampling: MessageInitShape<typeof SamplingSchema>;
  readonly maxOutputTokens: number | undefined;
}

export const chatCommand: Command = {
  path: ["chat"],
  summary:
    "Talk to a model; the answer streams. Without a prompt: a conversation on a terminal, else stdin is the prompt.",
  positionals: [{ name: "PROMPT", doc: "What to say.", optional: true, rest: true }],
  options: [
    { name: "model", value: "NAME", doc: "Model or alias. [the only one there is, or pocket]" },
    { name: "system", value: "TEXT", doc: "Instructions before the conversation." },
    { name: "temperature", value: "T", doc: "0 (always the likeliest token) to 2. [1]" },
    { name: "seed", value: "N", doc: "The same seed gives the same answer." },
    { name: "max-tokens", value: "N", doc: "Most tokens of an answer. [what the context leaves]" },
  ],
  run: chat,
};

async function chat(input: Input, session: Session): Promise<void> {
  const { terminal, json } = session;
  const options = readOptions(input);
  const client = session.router(InferenceService);
  const prompt = input.positional("PROMPT") || (terminal.stdin.isTTY ? "" : (await readAll(terminal.stdin)).trim());
  if (prompt === "" && (!terminal.stdin.isTTY || json)) throw new UsageError("PROMPT is missing, and stdin has none.");
  const system = input.text("system");
  const turns: Turn[] = system === undefined ? [] : [{ role: Role.SYSTEM, content: system }];
  const model = input.text("model") ?? (await chooseModel(client));
  const talk: Talk = { client, terminal, json, watched: terminal.interactive && !json, model, ...options };
  if (prompt === "") await converse(talk, turns, session);
  else await answer(talk, [...turns, { role: Role.USER, content: prompt }]);
}

function readOptions(input: Input): Pick<Talk, "sampling" | "maxOutputTokens"> {
  const temperature = input.decimal("temperature", 0, 2);
  const seed = input.integer("seed");
  return {
    maxOutputTokens: input.integer("max-tokens"),
    sampling: {
      ...(temperature === undefined ? {} : { temperature }),
      ...(seed === undefined ? {} : { seed: BigInt(seed) }),
    },
  };
}

async function chooseModel(client: Inference): Promise<string> {
  const { models } = await client.listModels({});
  const own = models.filter((model) => model.id === model.resolvesTo || model.resolvesTo === "");
  const pick = own.find((model) => model.id === "pocket") ?? (own.length === 1 ? own[0] : undefined);
  if (pick) return pick.id;
  if (own.length === 0) throw new UsageError("No model is deployed. Deploy one with `helixmesh deployments put`.");
  throw new UsageError(`Say which model with --model: ${own.map((model) => model.id).join(", ")}.`);
}

/** Streams one answer and returns its text; undefined when Ctrl-C stopped it. */
async function answer(talk: Talk, turns: readonly Turn[]): Promise<string | undefined> {
  const { terminal, json } = talk;
  const cancel = new AbortController();
  const offInterrupt = terminal.onInterrupt(() => cancel.abort());
  const startedMs = terminal.clock.monotonicMs();
  let firstMs: number | undefined;
  let text = "";
  let showsWait = false;
  const hideWait = (): void => {
    if (showsWait) terminal.err(clearLine);
    showsWait = false;
  };
  try {
    const request: MessageInitShape<typeof GenerateRequestSchema> = {
      model: talk.model,
      sampling: talk.sampling,
      input: { case: "chat", value: create(ChatInputSchema, { messages: [...turns] }) },
      ...(talk.maxOutputTokens === undefined ? {} : { maxOutputTokens: talk.maxOutputTokens }),
    };
    const headers = talk.watched ? { "x-helixmesh-progress": "true" } : {};
    for await (const { event } of talk.client.generate(request, { headers, signal: cancel.signal })) {
      if (event.case === "waiting") {
        terminal.err(`${clearLine}\x1b[2mwaiting: ${event.value.reason}\x1b[0m`);
        showsWait = true;
        continue;
      }
      hideWait();
      if (event.case === "delta") {
        if (event.value.text !== "") firstMs ??= terminal.clock.monotonicMs();
        text += event.value.text;
        if (!json) terminal.out(event.value.text);
      }
      if (event.case === "finished") {
        const finished = toJson(FinishedSchema, event.value, { alwaysEmitImplicit: true });
        terminal.out(json ? `${JSON.stringify({ text, finished }, undefined, 2)}\n` : "\n");
        if (talk.watched) showNumbers(talk, event.value, startedMs, firstMs);
      }
    }
    return text;
  } catch (error) {
    hideWait();
    if (text !== "" && !json) terminal.out("\n");
    if (!cancel.signal.aborted || !(error instanceof ConnectError && error.code === Code.Canceled)) throw error;
    terminal.err("[cancelled]\n");
    return undefined;
  } finally {
    offInterrupt();
  }
}

async function converse(talk: Talk, system: readonly Turn[], session: Session): Promise<void> {
  const { terminal } = talk;
  const lines = createInterface({ input: terminal.stdin, output: process.stdout, historySize: 200 });
  const ended = new AbortController();
  // On a terminal readline takes Ctrl-C itself: at the prompt it leaves, while an answer streams it stops the answer.
  const leave = (): void => ended.abort();
  let interrupt = leave;
  lines.on("SIGINT", () => interrupt());
  lines.on("close", leave);
  const onInterrupt = (callback: () => void) => {
    interrupt = callback;
    return () => {
      interrupt = leave;
    };
  };
  const talking: Talk = { ...talk, terminal: { ...terminal, onInterrupt } };
  terminal.err(
    `Talking to ${talk.model}. Ctrl-C stops an answer, /new forgets the conversation, /exit or Ctrl-D leaves.\n`,
  );
  let turns = [...system];
  while (!ended.signal.aborted) {
    // Rejects when the conversation ended while it waited, which is how it is left.
    const line = await lines.question("> ", { signal: ended.signal }).catch(() => "/exit");
    const command = line.trim();
    if (command === "/exit") break;
    if (command === "/new") turns = [...system];
    if (command === "/new" || command === "") continue;
    const asked: Turn[] = [...turns, { role: Role.USER, content: line }];
    try {
      const text = await answer(talking, asked);
      if (text !== undefined) turns = [...asked, { role: Role.ASSISTANT, content: text }];
    } catch (error) {
      // One failed answer does not end a conversation.
      terminal.err(`${describeFailure(error, session).message}\n`);
    }
  }
  lines.close();
}

/** A dim line under the answer: what it took. */
function showNumbers(talk: Talk, finished: Finished, startedMs: number, firstMs: number | undefined): void {
  const { usage } = finished;
  if (!usage || firstMs === undefined) return;
  const seconds = (talk.terminal.clock.monotonicMs() - firstMs) / 1_000;
  const rate =
    seconds > 0 && usage.completionTokens > 1
      ? `, ${count(Math.round((usage.completionTokens - 1) / seconds))} tokens/s`
      : "";
  const cached = usage.cachedTokens > 0 ? ` (${count(usage.cachedTokens)} cached)` : "";
  talk.terminal.err(
    `\x1b[2m${count(usage.promptTokens)}${cached} + ${count(usage.completionTokens)} tokens, first after ` +
      `${Math.round(firstMs - startedMs)} ms${rate}\x1b[0m\n`,
  );
}
