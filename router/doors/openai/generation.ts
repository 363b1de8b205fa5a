import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { GenerateRequest, Waiting } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { ResponseSink, RunningCall } from "../../call/sink.ts";
import { waitingText } from "../progress.ts";
import type { GenerationAnswer } from "./answer.ts";
import { errorBody, ofPrompt } from "./errors.ts";
import { readEvent } from "./event.ts";
import type { EventStream } from "./event-stream.ts";
import type { Exchange } from "./exchange.ts";
import { PlainDelta } from "./plain-delta.ts";

/** Calls of one HTTP request (completions with several prompts) that run at once. */
const mostCallsAtOnce = 16;

const plainDelta = new PlainDelta();

/**
 * Runs the requests of one HTTP request and answers. A stream's status is sent with the first text, or with the first
 * word of a wait to a caller that wants to hear of it, so that whatever fails before has its own status; a failure after
 * that is an event `{"error":…}` and no `[DONE]`. `promptPaths`: where each request's prompt stands in the body, for
 * errors; left out where there is only one.
 */
export function answerGeneration(
  exchange: Exchange,
  requests: readonly GenerateRequest[],
  stream: boolean,
  answer: GenerationAnswer,
  promptPaths: readonly string[] = [],
): void {
  new Generation(exchange, requests, stream, answer, promptPaths).begin();
}

class Generation {
  readonly #exchange: Exchange;
  readonly #requests: readonly GenerateRequest[];
  readonly #stream: boolean;
  readonly #answer: GenerationAnswer;
  readonly #promptPaths: readonly string[];
  /** Calls in flight by the index of their request; undefined while one is being begun. */
  readonly #running = new Map<number, RunningCall | undefined>();
  #begun = 0;
  /** Monotonic; undefined where the caller named no limit of time. */
  #deadlineMs: number | undefined;
  #events: EventStream | undefined;
  #over = false;

  constructor(
    exchange: Exchange,
    requests: readonly GenerateRequest[],
    stream: boolean,
    answer: GenerationAnswer,
    promptPaths: readonly string[],
  ) {
    this.#exchange = exchange;
    this.#requests = requests;
    this.#stream = stream;
    this.#answer = answer;
    this.#promptPaths = promptPaths;
    const { context, deps } = exchange;
    if (context.timeoutMs !== undefined) this.#deadlineMs = deps.clock.monotonicMs() + context.timeoutMs;
  }

  begin(): void {
    const { reply } = this.#exchange;
    reply.onGone = () => this.#abortAll();
    this.#beginMore();
    if (reply.gone) this.#abortAll();
  }

  #beginMore(): void {
    const { context, deps } = this.#exchange;
    while (!this.#over && this.#running.size < mostCallsAtOnce) {
      const index = this.#begun;
      const request = this.#requests[index];
      if (!request) return;
      this.#begun += 1;
      this.#running.set(index, undefined);
      const callId = subCallId(context.callId, index, deps.newCallId);
      // One that begins later, since others were before it, has only what is left.
      const timeoutMs = this.#deadlineMs === undefined ? undefined : this.#deadlineMs - deps.clock.monotonicMs();
      const call = deps.calls.generate({ request }, { ...context, callId, timeoutMs }, this.#sink(index));
      // It may have ended already.
      if (this.#running.has(index)) this.#running.set(index, call);
    }
  }

  #sink(index: number): ResponseSink {
    let finished = false;
    let sent = (this.#exchange.lastEvent?.count ?? 0) > 0;
    const fail = (error: MeshError): void => this.#fail(error, index);
    return {
      writeMessage: (bytes, start, end) => {
        if (this.#over) return true;
        try {
          let text = plainDelta.read(bytes, start, end) ? this.#answer.takePlain(plainDelta, index) : undefined;
          if (text === undefined) {
            const event = readEvent(bytes, start, end);
            finished ||= event.case === "finished";
            text = this.#answer.take(event, index);
          }
          if (text === "") return true;
          sent = true;
          return this.#open().write(text);
        } catch (thrown) {
          fail(MeshError.from(thrown));
          return true;
        }
      },
      finish: () => {
        if (finished) this.#finish(index);
        else fail(endedWithoutResult());
      },
      fail,
      cut: fail,
      restart: () => {
        if (sent) return false;
        this.#answer.restart(index);
        return true;
      },
      wait: this.#stream && this.#exchange.progress ? (waiting) => this.#tell(waiting, index) : undefined,
    };
  }

  #open(): EventStream {
    return (this.#events ??= this.#exchange.reply.eventStream(() => this.#resumeAll()));
  }

  /** Of several calls the oldest speaks for all. */
  #tell(waiting: Waiting, index: number): boolean {
    const [oldest] = this.#running.keys();
    return this.#over || index !== oldest || this.#open().comment(waitingText(waiting));
  }

  #finish(index: number): void {
    this.#running.delete(index);
    if (this.#over) return;
    this.#beginMore();
    if (this.#over || this.#running.size > 0) return;
    this.#over = true;
    const { reply } = this.#exchange;
    if (this.#stream) (this.#events ?? reply.eventStream(() => {})).end(this.#answer.end());
    else reply.json(200, this.#answer.end());
  }

  /** The first failure is the answer's, and ends the other calls. */
  #fail(failure: MeshError, index: number): void {
    const call = this.#running.get(index);
    this.#running.delete(index);
    if (this.#over) return;
    this.#over = true;
    call?.abort();
    this.#abortAll();
    const error = ofPrompt(failure, this.#promptPaths[index] ?? "prompt");
    if (!this.#events) return this.#exchange.fail(error);
    const { context, deps } = this.#exchange;
    if (error.reason === Reason.INTERNAL) {
      deps.logger.error("answer failed", { callId: context.callId, door: context.door, error });
    }
    this.#events.end(`data: ${errorBody(error, context.door)}\n\n`);
  }

  #resumeAll(): void {
    for (const call of this.#running.values()) call?.resume();
  }

  #abortAll(): void {
    for (const call of this.#running.values()) call?.abort();
  }
}

/** A call that ends well without Finished is a defect of whoever made the stream. */
function endedWithoutResult(): MeshError {
  const message = "The generation ended without its result; quote the request id when asking for help.";
  return new MeshError(Reason.INTERNAL, message);
}

/** A usage record per call needs an id per call; the first keeps the request's own. */
function subCallId(callId: string, index: number, newCallId: () => string): string {
  if (index === 0) return callId;
  const id = `${callId}.${index}`;
  return id.length <= 128 ? id : newCallId();
}
