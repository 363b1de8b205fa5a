import { fromBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type GenerateRequest,
  type GenerateResponse,
  GenerateResponseSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { CallContext } from "../../call/calls.ts";
import { errorBody } from "./errors.ts";
import type { EventStream } from "./event-stream.ts";
import type { Exchange } from "./exchange.ts";
import { merge } from "./merge.ts";

/** Translates events into one protocol's words: as server-sent events on the way, or as one JSON text at the end. */
export interface GenerationAnswer {
  /** What to send now; "" is nothing yet. `call` says which of the requests the event belongs to. */
  take(event: GenerateResponse, call: number): string;
  /** What to send last. */
  end(): string;
}

/** Calls of one HTTP request (completions with several prompts) that run at once. */
const mostCallsAtOnce = 16;

/**
 * Runs the requests of one HTTP request and answers. A stream's status is sent with the first text, so that whatever
 * fails before has its own status; a failure after that is an event `{"error":…}` and no `[DONE]`.
 */
export async function answerGeneration(
  exchange: Exchange,
  requests: readonly GenerateRequest[],
  stream: boolean,
  answer: GenerationAnswer,
): Promise<void> {
  const { context, deps, reply } = exchange;
  // Ends the other calls of this request when one fails.
  const group = new AbortController();
  const signal = requests.length === 1 ? context.signal : AbortSignal.any([context.signal, group.signal]);
  const sources = requests.map((request, i) => () => {
    const callId = subCallId(context.callId, i, deps.newCallId);
    return events(exchange, request, { ...context, callId, signal });
  });
  let out: EventStream | undefined;
  try {
    for await (const [call, event] of merge(sources, mostCallsAtOnce)) {
      const text = answer.take(event, call);
      if (!stream || text === "") continue;
      out ??= reply.eventStream();
      out.write(text);
      if (out.room) await out.room;
      if (context.signal.aborted) return;
    }
    if (stream) (out ?? reply.eventStream()).end(answer.end());
    else reply.json(200, answer.end());
  } catch (thrown) {
    if (!out) throw thrown;
    const error = MeshError.from(thrown);
    logDefect(exchange, error);
    out.end(`data: ${errorBody(error, context.door)}\n\n`);
  } finally {
    group.abort();
  }
}

/** The decoded events of one call; one that ends without Finished is a defect of whoever made the stream. */
async function* events(
  exchange: Exchange,
  request: GenerateRequest,
  context: CallContext,
): AsyncGenerator<GenerateResponse> {
  let finished = false;
  for await (const bytes of exchange.deps.calls.generate(request, context)) {
    const event = fromBinary(GenerateResponseSchema, bytes);
    finished ||= event.event.case === "finished";
    yield event;
  }
  if (!finished && !context.signal.aborted) {
    throw new MeshError(
      Reason.INTERNAL,
      "The generation ended without its result; quote the request id when asking for help.",
    );
  }
}

function logDefect(exchange: Exchange, error: MeshError): void {
  if (error.reason !== Reason.INTERNAL) return;
  exchange.deps.logger.error("answer failed", { callId: exchange.context.callId, door: exchange.context.door, error });
}

/** A usage record per call needs an id per call; the first keeps the request's own. */
function subCallId(callId: string, index: number, newCallId: () => string): string {
  if (index === 0) return callId;
  const id = `${callId}.${index}`;
  return id.length <= 128 ? id : newCallId();
}
