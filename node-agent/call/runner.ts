import { type DescMessage, type MessageShape, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  CountTokensRequestSchema,
  CountTokensResponseSchema,
  EmbedRequestSchema,
  EmbedResponseSchema,
  GenerateRequestSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { CallEndSchema, Method, type StartCall } from "#gen/helixmesh/link/v1/link_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { CallRunner, CallSink, RunningCall } from "../link/index.ts";
import type { CallEnvironment } from "./call-environment.ts";
import { GenerateCall } from "./generate-call.ts";
import { UnaryCall } from "./unary-call.ts";

/** Turns what a router starts into a running call of its method. */
export function createCallRunner(environment: CallEnvironment): CallRunner {
  function makeCall(start: StartCall, sink: CallSink): RunningCall & { begin(): void } {
    switch (start.method) {
      case Method.GENERATE:
        return new GenerateCall(environment, start, decode(GenerateRequestSchema, start.request), sink);
      case Method.EMBED: {
        const request = decode(EmbedRequestSchema, start.request);
        return unary(start, sink, "embeddings", request.labels, async (target) => {
          const response = await target.embed(request);
          response.model = start.model;
          return { response: toBinary(EmbedResponseSchema, response), usage: response.usage };
        });
      }
      case Method.COUNT_TOKENS: {
        const request = decode(CountTokensRequestSchema, start.request);
        return unary(start, sink, "count_tokens", {}, async (target) => {
          const response = await target.countTokens(request);
          return { response: toBinary(CountTokensResponseSchema, response), usage: undefined };
        });
      }
      default:
        throw new MeshError(
          Reason.ROUTE_NOT_FOUND,
          `The node knows no method ${start.method}; it may be older than the router.`,
          {
            field: "method",
          },
        );
    }
  }

  function unary(
    start: StartCall,
    sink: CallSink,
    operation: "embeddings" | "count_tokens",
    labels: Record<string, string>,
    run: ConstructorParameters<typeof UnaryCall>[2]["run"],
  ): UnaryCall {
    return new UnaryCall(environment, start, { operation, labels, run }, sink);
  }

  return {
    start(start, sink) {
      let call: RunningCall & { begin(): void };
      try {
        call = makeCall(start, sink);
      } catch (error) {
        const { reason, message, field, limit } = MeshError.from(error);
        sink.end(create(CallEndSchema, { reason, message, field, limit, usage: {} }));
        return { cancel() {} };
      }
      call.begin();
      return call;
    },
  };
}

function decode<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> {
  try {
    return fromBinary(schema, bytes);
  } catch (cause) {
    throw new MeshError(Reason.INVALID_REQUEST, "The request is no valid message of its method.", {
      field: "request",
      cause,
    });
  }
}
