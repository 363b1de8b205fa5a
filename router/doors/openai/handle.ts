import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { parseJson } from "#kernel/json-body.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { forgetRest } from "#kernel/request-rest.ts";
import { explanationText } from "../../routing/explain.ts";
import { explainHeader, routingHints } from "../../routing/hints.ts";
import { modelList, oneModel, readModelId } from "../openai-models/index.ts";
import { checkContentType, discardRest, readBody } from "./body.ts";
import { readLastEventId } from "./event-id.ts";
import type { HttpRequest, HttpResponse, OpenAiDeps } from "./exchange.ts";
import { Reply } from "./reply.ts";
import { requestId } from "./request-id.ts";
import { route } from "./route.ts";

const defaultTimeoutMs = 60_000;

/**
 * Answers one request of the OpenAI HTTP API, HTTP/1.1 or HTTP/2, whatever its path. In order: route, key, media type,
 * body, endpoint; nothing of a body is read for a caller without a key.
 */
export function handleOpenAi(request: HttpRequest, response: HttpResponse, deps: OpenAiDeps): void {
  const callId = requestId(request.headers["x-request-id"], deps.newCallId);
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  const reply = new Reply(response, {
    callId,
    clock: deps.clock,
    stallTimeoutMs: deps.stallTimeoutMs ?? defaultTimeoutMs,
    onStall: () => count(deps, "stalled_client"),
  });
  answer(request, reply, callId, gone.signal, deps).catch((thrown: unknown) => {
    const error = MeshError.from(thrown);
    count(deps, errorName(error.reason));
    if (error.reason === Reason.INTERNAL) deps.logger.error("request failed", { callId, door: reply.door, error });
    const rest = error.reason === Reason.REQUEST_TOO_LARGE ? forgetRest(request) : Promise.resolve();
    void rest.then(() => reply.error(error, discardRest(request, deps.clock)));
  });
}

async function answer(
  request: HttpRequest,
  reply: Reply,
  callId: string,
  signal: AbortSignal,
  deps: OpenAiDeps,
): Promise<void> {
  const target = route(request.method ?? "GET", request.url ?? "/");
  if (target.kind === "post") reply.door = target.endpoint.door;
  const principal = deps.authenticate(request.headers.authorization);
  if (target.kind === "models") return reply.json(200, modelList(deps.calls.listModels(principal)));
  if (target.kind === "model")
    return reply.json(200, oneModel(deps.calls.listModels(principal), readModelId(target.id)));
  checkContentType(request);
  const body = parseJson(
    await readBody(request, {
      maxBytes: deps.maxBodyBytes,
      timeoutMs: deps.bodyTimeoutMs ?? defaultTimeoutMs,
      clock: deps.clock,
    }),
  );
  const lastEvent =
    target.endpoint.door === "openai-embeddings" ? undefined : readLastEventId(request.headers["last-event-id"]);
  if (lastEvent) reply.header("x-request-id", lastEvent.callId);
  const context = {
    callId: lastEvent?.callId ?? callId,
    resumes: lastEvent !== undefined,
    door: target.endpoint.door,
    principal,
    timeoutMs: undefined,
    traceparent: traceparent(request),
    routing: routingHints(
      (name) => request.headers[name]?.toString(),
      (explanation) => reply.header(explainHeader, explanationText(explanation)),
    ),
  };
  return target.endpoint.answer({ body, context, deps, lastEvent, reply, signal });
}

/** W3C Trace Context, section 3.2; anything else counts as absent, as the specification asks. */
function traceparent(request: HttpRequest): string | undefined {
  const header = request.headers["traceparent"];
  return typeof header === "string" && /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/.test(header)
    ? header
    : undefined;
}

function errorName(reason: Reason): string {
  return (
    Object.entries(Reason)
      .find(([, value]) => value === reason)?.[0]
      .toLowerCase() ?? "unknown"
  );
}

function count(deps: OpenAiDeps, reason: string): void {
  deps.metrics
    .counter(
      "openai_refusals_total",
      "Requests of the OpenAI API refused or failed before their first token, and streams cut because nobody read them.",
      ["reason"],
    )
    .inc({ reason });
}
