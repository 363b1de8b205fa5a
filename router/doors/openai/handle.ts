import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { plainTimeoutMs } from "#kernel/call-timeout.ts";
import type { HotPath } from "#kernel/http1/index.ts";
import { parseJson } from "#kernel/json-body.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { forgetRest } from "#kernel/request-rest.ts";
import type { Principal } from "../../admission/authenticate.ts";
import { explanationText } from "../../routing/explain.ts";
import { explainHeader, routingHints } from "../../routing/hints.ts";
import { wantsProgress } from "../progress.ts";
import { modelList, oneModel, readModelId } from "../openai-models/index.ts";
import { bodyTooSlow, checkContentType, discardRest, readBody } from "./body.ts";
import { readLastEventId } from "./event-id.ts";
import type { Endpoint, HttpRequest, HttpResponse, OpenAiDeps } from "./exchange.ts";
import { Reply } from "./reply.ts";
import { requestId } from "./request-id.ts";
import { endpoints, route } from "./route.ts";

const defaultTimeoutMs = 60_000;

/** Milliseconds from the request's arrival; what `grpc-timeout` and `connect-timeout-ms` are to the other doors. */
const timeoutHeader = "x-helixmesh-timeout-ms";

/**
 * Answers one request of the OpenAI HTTP API, HTTP/1.1 or HTTP/2, whatever its path. In order: route, key, media type,
 * body, endpoint; nothing of a body is read for a caller without a key.
 */
export function handleOpenAi(request: HttpRequest, response: HttpResponse, deps: OpenAiDeps): void {
  const reply = openReply(request.headers["x-request-id"]?.toString(), response, deps, {});
  answer(request, reply, deps).catch((thrown: unknown) => {
    const error = MeshError.from(thrown);
    const rest = error.reason === Reason.REQUEST_TOO_LARGE ? forgetRest(request) : Promise.resolve();
    void rest.then(() => refuse(error, reply, deps, discardRest(request, deps.clock)));
  });
}

async function answer(request: HttpRequest, reply: Reply, deps: OpenAiDeps): Promise<void> {
  const target = route(request.method ?? "GET", request.url ?? "/");
  if (target.kind === "post") reply.door = target.endpoint.door;
  const principal = deps.authenticate(request.headers.authorization);
  if (target.kind === "models") return reply.json(200, modelList(deps.calls.listModels(principal)));
  if (target.kind === "model")
    return reply.json(200, oneModel(deps.calls.listModels(principal), readModelId(target.id)));
  checkContentType(request.headers["content-type"], request.headers["content-encoding"]);
  const body = await readBody(request, {
    maxBytes: deps.maxBodyBytes,
    timeoutMs: deps.bodyTimeoutMs ?? defaultTimeoutMs,
    clock: deps.clock,
  });
  runEndpoint(target.endpoint, body, principal, (name) => request.headers[name]?.toString(), reply, deps);
}

/**
 * The same for a request whose body HTTP/1.1's hot path has gathered, and which nothing is wrong with as far as its head
 * tells: all others get their answer from `handleOpenAi`. `answerHeaders` are those of every answer.
 */
export function openAiHotPath(deps: OpenAiDeps, answerHeaders: Readonly<Record<string, string>>): HotPath {
  const bodyTimeoutMs = deps.bodyTimeoutMs ?? defaultTimeoutMs;
  return (head, response, hasBody) => {
    const endpoint = endpoints.get(head.target);
    // What a page of another origin may read is no matter of this door's.
    if (!endpoint || head.contentLength > deps.maxBodyBytes || head.get("origin") !== undefined) return undefined;
    let principal: Principal;
    try {
      principal = deps.authenticate(head.get("authorization"));
      checkContentType(head.get("content-type"), head.get("content-encoding"));
    } catch {
      return undefined;
    }
    const reply = openReply(head.get("x-request-id"), response, deps, answerHeaders);
    reply.door = endpoint.door;
    const late = hasBody
      ? undefined
      : deps.clock.setTimer(bodyTimeoutMs, () => refuse(bodyTooSlow(bodyTimeoutMs), reply, deps, undefined));
    if (late) reply.onGone = () => late.cancel();
    return (body) => {
      late?.cancel();
      runEndpoint(endpoint, body, principal, (name) => head.get(name), reply, deps);
    };
  };
}

function openReply(
  requestIdHeader: string | undefined,
  response: HttpResponse,
  deps: OpenAiDeps,
  headers: Readonly<Record<string, string>>,
): Reply {
  return new Reply(response, {
    callId: requestId(requestIdHeader, deps.newCallId),
    headers,
    clock: deps.clock,
    stallTimeoutMs: deps.stallTimeoutMs ?? defaultTimeoutMs,
    onStall: () => count(deps, "stalled_client"),
  });
}

function runEndpoint(
  endpoint: Endpoint,
  body: Buffer,
  principal: Principal,
  header: (name: string) => string | undefined,
  reply: Reply,
  deps: OpenAiDeps,
): void {
  const fail = (thrown: unknown): void => refuse(MeshError.from(thrown), reply, deps, undefined);
  try {
    const lastEvent = endpoint.door === "openai-embeddings" ? undefined : readLastEventId(header("last-event-id"));
    if (lastEvent) reply.header("x-request-id", lastEvent.callId);
    const context = {
      callId: lastEvent?.callId ?? reply.callId,
      resumes: lastEvent !== undefined,
      door: endpoint.door,
      principal,
      timeoutMs: plainTimeoutMs(timeoutHeader, header(timeoutHeader)),
      traceparent: traceparent(header("traceparent")),
      routing: routingHints(header, (explanation) => reply.header(explainHeader, explanationText(explanation))),
    };
    const progress = wantsProgress(header);
    endpoint.answer({ body: parseJson(body), context, deps, lastEvent, progress, reply, fail });
  } catch (error) {
    fail(error);
  }
}

/** `rest` as for `Reply.error`. */
function refuse(error: MeshError, reply: Reply, deps: OpenAiDeps, rest: Promise<void> | undefined): void {
  count(deps, errorName(error.reason));
  if (error.reason === Reason.INTERNAL) {
    deps.logger.error("request failed", { callId: reply.callId, door: reply.door, error });
  }
  reply.error(error, rest);
}

/** W3C Trace Context, section 3.2; anything else counts as absent, as the specification asks. */
function traceparent(header: string | undefined): string | undefined {
  return header !== undefined && /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/.test(header)
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
      "Requests of the OpenAI API refused or failed before anything was sent of their answer, and streams cut because nobody read them.",
      ["reason"],
    )
    .inc({ reason });
}
