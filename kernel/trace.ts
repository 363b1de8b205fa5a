import {
  type Attributes,
  ROOT_CONTEXT,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  isSpanContextValid,
  trace,
} from "@opentelemetry/api";

export interface Span {
  /** W3C `traceparent` to send onward; the caller's own when tracing is off, empty when there is none. */
  readonly traceparent: string;
  /** Asked for only while tracing is on. */
  setAttributes(attributes: () => Attributes): void;
  /** Marks the span failed. The error's name and message are recorded, so they must hold no prompt. */
  fail(error: unknown): void;
  /** Once; later calls do nothing. */
  end(): void;
}

export interface SpanOptions {
  readonly kind: "server" | "client" | "internal";
  /** The parent's, from a header; a malformed one is ignored. */
  readonly traceparent?: string | undefined;
  /** Asked for only while tracing is on. */
  readonly attributes?: () => Attributes;
}

const kinds = { server: SpanKind.SERVER, client: SpanKind.CLIENT, internal: SpanKind.INTERNAL };

/** Undefined while tracing is off. */
let tracer: Tracer | undefined;

/** Sends spans by OTLP/HTTP to a collector at `endpoint`; without one nothing is loaded and every span is a no-op. */
export async function startTracing(options: {
  readonly service: string;
  readonly endpoint: string | undefined;
}): Promise<{ shutdown(): Promise<void> }> {
  if (options.endpoint === undefined) return { shutdown: async () => {} };
  // The SDK takes its exporters from the environment; logs and metrics have their own way out.
  process.env["OTEL_EXPORTER_OTLP_ENDPOINT"] ??= options.endpoint;
  process.env["OTEL_TRACES_EXPORTER"] ??= "otlp";
  process.env["OTEL_METRICS_EXPORTER"] ??= "none";
  process.env["OTEL_LOGS_EXPORTER"] ??= "none";
  process.env["OTEL_SERVICE_NAME"] ??= options.service;
  const { NodeSDK } = await import("@opentelemetry/sdk-node");
  const sdk = new NodeSDK({ serviceName: options.service, instrumentations: [] });
  sdk.start();
  tracer = trace.getTracer("helixmesh");
  return {
    async shutdown() {
      tracer = undefined;
      await sdk.shutdown();
    },
  };
}

export function startSpan(name: string, options: SpanOptions): Span {
  const given = parseTraceparent(options.traceparent);
  if (!tracer) return given ? { ...offSpan, traceparent: options.traceparent ?? "" } : offSpan;
  const parent = given ? trace.setSpanContext(ROOT_CONTEXT, given) : ROOT_CONTEXT;
  const span = tracer.startSpan(name, { kind: kinds[options.kind], attributes: options.attributes?.() ?? {} }, parent);
  return {
    traceparent: formatTraceparent(span.spanContext()),
    setAttributes: (attributes) => void span.setAttributes(attributes()),
    fail(error) {
      span.recordException(error instanceof Error ? error : new Error(String(error)));
      span.setStatus({ code: SpanStatusCode.ERROR });
    },
    end: () => span.end(),
  };
}

const offSpan: Span = { traceparent: "", setAttributes() {}, fail() {}, end() {} };

/** https://www.w3.org/TR/trace-context/#traceparent-header; later versions may append fields. */
function parseTraceparent(header: string | undefined): SpanContext | undefined {
  if (header === undefined) return undefined;
  const match = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(header);
  const [, version, traceId = "", spanId = "", flags = "", rest] = match ?? [];
  if (!match || version === "ff" || (version === "00" && rest !== undefined)) return undefined;
  const context = { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true };
  return isSpanContextValid(context) ? context : undefined;
}

function formatTraceparent({ traceId, spanId, traceFlags }: SpanContext): string {
  return `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, "0")}`;
}
