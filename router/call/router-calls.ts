import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  CountTokensRequestSchema,
  CountTokensResponseSchema,
  EmbedRequestSchema,
  EmbedResponseSchema,
  type GenerateRequest,
  type ModelInfo,
  ModelInfoSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Outcome, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { defaultBlockBytes, promptBlocks } from "#kernel/prompt-blocks.ts";
import { startSpan } from "#kernel/trace.ts";
import type { Limits } from "../admission/limits.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";
import type { Need } from "../routing/need.ts";
import { resolve } from "../routing/resolve.ts";
import { Call } from "./call.ts";
import type { CallParts, CallSettings } from "./call-parts.ts";
import type { CallContext, Calls } from "./calls.ts";
import { type Drawing, drawingOf } from "./continuity.ts";
import { generateBytes } from "./generate-bytes.ts";
import { needsOfEmbed, needsOfGenerate } from "./needs.ts";
import { onlyResponse } from "./only-response.ts";
import { OpenCalls } from "./open-calls.ts";
import type { ResponseSink, RunningCall } from "./sink.ts";
import { type ShadowSettings, Shadows } from "./shadows.ts";
import { validateCountTokens, validateEmbed, validateGenerate } from "./validate.ts";

export interface RouterCallsParts extends CallParts {
  readonly settings: CallSettings & ShadowSettings & { readonly prefixBlocks: number };
  readonly snapshot: () => IndexedSnapshot;
  readonly limits: Limits;
  /** True once the router takes no new calls. */
  readonly draining: () => boolean;
}

interface Asked {
  readonly method: Method;
  readonly model: string;
  readonly labels: Readonly<Record<string, string>>;
  /** https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/, gen_ai.operation.name */
  readonly operation: string;
  readonly attributes: () => Readonly<Record<string, string | number>>;
  /** Throws what is wrong with the request. */
  readonly validate: () => void;
  readonly encode: () => Uint8Array;
  readonly needs: () => readonly Need[];
  readonly promptBlocks: () => Uint32Array | undefined;
  readonly priority: number;
  readonly drawing: Drawing;
}

/** Of a call that says nothing else (inference.proto). */
const usualPriority = 5;

export interface RouterCalls extends Calls {
  /** Ends every call in flight with `error`, whatever its door. */
  cutAll(error: MeshError): void;
}

/** The core behind every door: validate → admit → resolve → run. */
export function createCalls(parts: RouterCallsParts): RouterCalls {
  const open = new OpenCalls();
  const shadows = new Shadows(parts, open);

  function begin(asked: Asked, context: CallContext, sink: ResponseSink): RunningCall {
    const { clock, limits, settle, snapshot, draining } = parts;
    const startedAtMs = clock.nowMs();
    const startMs = clock.monotonicMs();
    const { operation } = asked;
    const span = startSpan(`${operation} ${asked.model.slice(0, 256)}`, {
      kind: "server",
      traceparent: context.traceparent,
      attributes: () => ({
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "helixmesh",
        "gen_ai.request.model": asked.model.slice(0, 256),
        "helixmesh.door": context.door,
        ...asked.attributes(),
      }),
    });
    try {
      if (draining()) throw new MeshError(Reason.DRAINING, "This router is shutting down; another one may answer.");
      asked.validate();
      const permit = limits.enter(context.principal.keyId);
      try {
        const { model } = resolve(snapshot(), asked.model);
        const { labels, method, priority, drawing } = asked;
        const request = asked.encode();
        const needs = asked.needs();
        const promptBlocks = asked.promptBlocks();
        const what = { method, model: model.name, request, needs, promptBlocks, drawing };
        const call = new Call(parts, {
          ...what,
          context,
          priority,
          deployment: undefined,
          labels,
          sink,
          permit: {
            release() {
              open.delete(number);
              permit.release();
            },
          },
          span,
          startedAtMs,
        });
        const number = open.add(call);
        call.begin();
        if (method === Method.GENERATE && !context.resumes) shadows.copy(what, context, labels, span);
        return call;
      } catch (error) {
        permit.release();
        throw error;
      }
    } catch (cause) {
      const error = MeshError.from(cause);
      const durationMs = clock.monotonicMs() - startMs;
      settle({ ...refused, context, error, startedAtMs, durationMs }, span);
      sink.fail(error);
      return refusedCall;
    }
  }

  return {
    generate({ request, encoded }, context, sink) {
      const asked: Asked = {
        method: Method.GENERATE,
        model: request.model,
        labels: request.labels,
        operation: request.input.case === "chat" ? "chat" : "text_completion",
        attributes: () => generateAttributes(request),
        validate: () => validateGenerate(request),
        encode: () => encoded ?? generateBytes(request),
        needs: () => needsOfGenerate(request),
        priority: request.priority ?? usualPriority,
        drawing: drawingOf(request),
        promptBlocks: () => promptBlocks(request, defaultBlockBytes, parts.settings.prefixBlocks),
      };
      return begin(asked, context, sink);
    },
    async embed(request, context, signal) {
      const asked: Asked = {
        method: Method.EMBED,
        model: request.model,
        labels: request.labels,
        operation: "embeddings",
        attributes: () => ({}),
        validate: () => validateEmbed(request),
        encode: () => toBinary(EmbedRequestSchema, request),
        needs: () => needsOfEmbed,
        priority: usualPriority,
        drawing: "greedy",
        promptBlocks: () => undefined,
      };
      return fromBinary(EmbedResponseSchema, await onlyResponse((sink) => begin(asked, context, sink), signal));
    },
    async countTokens(request, context, signal) {
      const asked: Asked = {
        method: Method.COUNT_TOKENS,
        model: request.model,
        labels: {},
        operation: "count_tokens",
        attributes: () => ({}),
        validate: () => validateCountTokens(request),
        encode: () => toBinary(CountTokensRequestSchema, request),
        needs: () => [],
        priority: usualPriority,
        drawing: "greedy",
        promptBlocks: () => undefined,
      };
      return fromBinary(CountTokensResponseSchema, await onlyResponse((sink) => begin(asked, context, sink), signal));
    },
    listModels: () => listModels(parts),
    cutAll(error) {
      for (const call of open.all()) call.cut(error);
    },
  };
}

/** Nothing is left to do with a call that was refused. */
const refusedCall: RunningCall = { resume() {}, abort() {} };

/** What a settlement says of a call that never was. */
const refused = {
  model: "",
  deployment: "",
  nodeId: "",
  outcome: Outcome.FAILED,
  promptTokens: 0,
  cachedTokens: 0,
  completionTokens: 0,
  ttftMs: undefined,
  interTokenMs: undefined,
  waitedMs: 0,
  attempts: 0,
  moves: 0,
  labels: {},
};

/** Sorted by id. Keys are not bound to models: each may use all. */
function listModels({ snapshot: current, pool }: RouterCallsParts): readonly ModelInfo[] {
  const snapshot = current();
  const infos: ModelInfo[] = [];
  const add = (id: string, name: string): void => {
    const model = snapshot.models.get(name);
    const deployments = snapshot.deploymentsOfModel.get(name);
    if (!model || !deployments) return;
    let readyReplicas = 0;
    let contextTokens = 0;
    for (const replica of deployments.flatMap((one) => snapshot.replicasOfDeployment.get(one.name) ?? [])) {
      const view = pool.replica(replica.nodeId, replica.replicaId);
      if (view?.state !== ReplicaState.READY) continue;
      readyReplicas += 1;
      contextTokens = Math.max(contextTokens, view.capabilities?.contextTokens ?? 0);
    }
    infos.push(create(ModelInfoSchema, { id, resolvesTo: name, created: model.created, readyReplicas, contextTokens }));
  };
  for (const name of snapshot.models.keys()) add(name, name);
  for (const alias of snapshot.aliases.values()) if (!snapshot.models.has(alias.name)) add(alias.name, alias.model);
  return infos.sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
}

/** Parameters only: content is never traced. */
function generateAttributes(request: GenerateRequest): Record<string, string | number> {
  const { sampling } = request;
  return {
    "helixmesh.input": request.input.case ?? "",
    ...(request.maxOutputTokens !== undefined && { "gen_ai.request.max_tokens": request.maxOutputTokens }),
    ...(request.choiceCount > 1 && { "gen_ai.request.choice.count": request.choiceCount }),
    ...(sampling?.temperature !== undefined && { "gen_ai.request.temperature": sampling.temperature }),
    ...(sampling?.topP !== undefined && { "gen_ai.request.top_p": sampling.topP }),
    ...(sampling?.seed !== undefined && { "gen_ai.request.seed": Number(sampling.seed) }),
  };
}
