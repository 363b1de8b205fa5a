import { type HandlerContext, type ServiceImpl, createContextKey } from "@connectrpc/connect";
import type { InferenceService } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { invariant } from "#kernel/invariant.ts";
import { newId } from "#kernel/random.ts";
import { cutResponse } from "#kernel/rpc-response.ts";
import type { Principal } from "../../admission/authenticate.ts";
import type { CallContext, Calls, Door } from "../../call/calls.ts";
import { Outbox } from "../../call/outbox.ts";
import { explanationText } from "../../routing/explain.ts";
import { explainHeader, routingHints } from "../../routing/hints.ts";
import { wantsProgress } from "../progress.ts";
import { requestIdHeader } from "../request-id.ts";
import { decodedResponse, relayedResponse } from "./relay-bytes.ts";
import { readResume } from "./resume.ts";
import { isWaiting, waitingBytes } from "./waiting-bytes.ts";

/** Who calls, set before a handler runs and before anything of the body is read. */
export const callerKey = createContextKey<Principal | undefined>(undefined, { description: "who calls" });

/** InferenceService over gRPC, gRPC-Web and Connect: who asks, then the core, then the answer as it comes. */
export function inferenceService(calls: Calls): ServiceImpl<typeof InferenceService> {
  function callContext(context: HandlerContext): CallContext {
    return {
      principal: caller(context),
      callId: context.requestHeader.get(requestIdHeader) ?? newId("call"),
      door: doorOf(context.protocolName),
      timeoutMs: context.timeoutMs(),
      traceparent: context.requestHeader.get("traceparent") ?? undefined,
      routing: routingHints(
        (name) => context.requestHeader.get(name) ?? undefined,
        (explanation) => context.responseHeader.set(explainHeader, explanationText(explanation)),
      ),
    };
  }
  return {
    async *generate(request, context) {
      const isJson = /json/.test(context.requestHeader.get("content-type") ?? "");
      const toMessage = isJson ? decodedResponse : relayedResponse;
      const resume = readResume((name) => context.requestHeader.get(name));
      const about = { ...callContext(context), resumes: resume !== undefined };
      let had = resume?.after ?? 0;
      const { signal } = context;
      const cutClient = context.values.get(cutResponse);
      const encodeWaiting = wantsProgress((name) => context.requestHeader.get(name)) ? waitingBytes : undefined;
      const outbox = new Outbox((sink) => calls.generate({ request }, about, sink), {
        signal,
        cutClient,
        encodeWaiting,
      });
      for await (const encoded of outbox) {
        if (had > 0 && !isWaiting(encoded)) had -= 1;
        else yield toMessage(encoded);
      }
    },
    embed: (request, context) => calls.embed(request, callContext(context), context.signal),
    countTokens: (request, context) => calls.countTokens(request, callContext(context), context.signal),
    listModels(_request, context) {
      return { models: [...calls.listModels(caller(context))] };
    },
  };
}

function caller(context: HandlerContext): Principal {
  const principal = context.values.get(callerKey);
  invariant(principal !== undefined, "a call has a caller");
  return principal;
}

function doorOf(protocolName: string): Door {
  switch (protocolName) {
    case "grpc":
    case "grpc-web":
      return protocolName;
    default:
      return "connect";
  }
}
