import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect, test, vi } from "vitest";
import { InferenceService, Role } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { startSpan, startTracing } from "#kernel/trace.ts";
import { tellStory } from "./link/test-agent.ts";
import { startTestMesh } from "./test-router.ts";

interface OtlpSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  /** https://github.com/open-telemetry/opentelemetry-proto/blob/v1.7.0/opentelemetry/proto/trace/v1/trace.proto */
  readonly kind: number;
  readonly status: { readonly code?: number };
  readonly attributes: readonly { readonly key: string; readonly value: Readonly<Record<string, unknown>> }[];
}

interface OtlpTraces {
  readonly resourceSpans: readonly { readonly scopeSpans: readonly { readonly spans: readonly OtlpSpan[] }[] }[];
}

const spanKindServer = 2;
const statusError = 2;

/** A collector that takes OTLP over HTTP in JSON. */
async function startCollector() {
  const spans: OtlpSpan[] = [];
  const paths = new Set<string>();
  const server = createServer((request, response) => {
    paths.add(request.url ?? "");
    void json(request).then((body) => {
      for (const { scopeSpans } of (body as OtlpTraces).resourceSpans)
        spans.push(...scopeSpans.flatMap((one) => one.spans));
      response.setHeader("content-type", "application/json");
      response.end("{}");
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { spans, paths, server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

function attributesOf(span: OtlpSpan | undefined): Record<string, unknown> {
  return Object.fromEntries(
    (span?.attributes ?? []).map(({ key, value }) => [
      key,
      Number(value["intValue"] ?? Number.NaN) || Object.values(value)[0],
    ]),
  );
}

test("a call is one trace from the client over the router to the agent, in the names of the GenAI conventions", async () => {
  const collector = await startCollector();
  vi.stubEnv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json");
  const tracing = await startTracing({ service: "test", endpoint: collector.url });
  const mesh = await startTestMesh({
    agents: [
      {
        onCall(call) {
          // As node-agent/call/call-record.ts does.
          const span = startSpan("agent", { kind: "server", traceparent: call.start.traceparent });
          tellStory(call);
          span.end();
        },
      },
    ],
  });
  const client = createClient(InferenceService, createGrpcTransport({ baseUrl: mesh.url }));
  const traceId = "0af7651916cd43dd8448eb211c80319c";
  const callerSpanId = "b7ad6b7169203331";
  const chat = { messages: [{ role: Role.USER, content: "a secret prompt" }] };
  const request = { input: { case: "chat" as const, value: chat }, sampling: { temperature: 0.5 }, maxOutputTokens: 9 };
  const headers = {
    authorization: `Bearer ${mesh.key}`,
    traceparent: `00-${traceId}-${callerSpanId}-01`,
    "x-request-id": "call-1",
  };
  for await (const _ of client.generate({ ...request, model: "small" }, { headers }));
  await expect(client.countTokens({ model: "nope", input: request.input }, { headers })).rejects.toThrow("nope");
  await mesh.close();
  await tracing.shutdown();
  collector.server.close();
  vi.unstubAllEnvs();

  expect([...collector.paths]).toEqual(["/v1/traces"]);
  const [call, agent, refused] = ["chat small", "agent", "count_tokens nope"].map((name) =>
    collector.spans.find((span) => span.name === name),
  );
  expect(collector.spans).toHaveLength(3);
  expect(call).toMatchObject({ traceId, parentSpanId: callerSpanId, kind: spanKindServer });
  expect(agent).toMatchObject({ traceId, parentSpanId: call?.spanId });
  expect(attributesOf(call)).toMatchObject({
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "helixmesh",
    "gen_ai.request.model": "small",
    "gen_ai.request.temperature": 0.5,
    "gen_ai.request.max_tokens": 9,
    "gen_ai.response.model": "pocket",
    "gen_ai.response.id": "call-1",
    "gen_ai.usage.input_tokens": 5,
    "gen_ai.usage.output_tokens": 3,
    "helixmesh.node.id": "node-1",
    "helixmesh.attempts": 1,
  });
  expect(refused).toMatchObject({ traceId, parentSpanId: callerSpanId, status: { code: statusError } });
  expect(attributesOf(refused)).toMatchObject({ "error.type": "model_not_found" });
  expect(JSON.stringify(collector.spans)).not.toContain("secret prompt");
});
