import { newId } from "#kernel/random.ts";
import { type Span, startSpan } from "#kernel/trace.ts";
import { Call } from "./call.ts";
import type { Principal } from "../admission/authenticate.ts";
import type { CallParts, CallSettings, CallSpec } from "./call-parts.ts";
import type { CallContext } from "./calls.ts";
import type { OpenCalls } from "./open-calls.ts";
import type { ResponseSink } from "./sink.ts";

export interface ShadowSettings {
  /** Copies in flight. */
  readonly maxShadowCalls: number;
}

/** Labels of a usage record (type.v1 UsageRecord). */
const mostLabels = 16;

/** Copies calls to shadow deployments. Nobody gets the copies' answers, and nothing of them reaches the real call. */
export class Shadows {
  readonly #parts: CallParts & { readonly settings: CallSettings & ShadowSettings };
  readonly #open: OpenCalls;
  #running = 0;

  /** Copies are in `open` while they run, so that a drain cuts them like any call. */
  constructor(parts: CallParts & { readonly settings: CallSettings & ShadowSettings }, open: OpenCalls) {
    this.#parts = parts;
    this.#open = open;
  }

  copy(
    what: Pick<CallSpec, "method" | "model" | "request" | "needs" | "promptBlocks" | "drawing">,
    { timeoutMs }: CallContext,
    labels: Readonly<Record<string, string>>,
    span: Span,
  ): void {
    const { routes, settings, metrics, clock } = this.#parts;
    for (const deployment of routes.shadows(what.model)) {
      if (this.#running >= settings.maxShadowCalls) {
        metrics.shadowSkipped();
        continue;
      }
      // A copy takes what is there: it neither waits for a replica nor tries another nor goes on there.
      const parts = { ...this.#parts, settings: { ...settings, readyWaitMs: 0, maxAttempts: 1, maxMoves: 0 } };
      const kept = Object.fromEntries(Object.entries(labels).slice(0, mostLabels - 1));
      const { traceparent } = span;
      const call = new Call(parts, {
        ...what,
        deployment,
        priority: 0,
        context: { callId: newId("shadow"), door: "shadow", principal: nobodyPays, timeoutMs, traceparent },
        labels: { ...kept, shadow: deployment },
        sink: nobody,
        permit: {
          release: () => {
            this.#running -= 1;
            this.#open.delete(number);
          },
        },
        span: startSpan(`shadow ${deployment}`, { kind: "internal", traceparent }),
        startedAtMs: clock.nowMs(),
      });
      this.#running += 1;
      const number = this.#open.add(call);
      call.begin();
    }
  }
}

/** The operator wanted the copy: it is on the books, but on nobody's bill. */
const nobodyPays: Principal = { keyId: "", projectId: "" };

const nobody: ResponseSink = {
  writeMessage: () => true,
  finish() {},
  fail() {},
  cut() {},
  restart: () => true,
};
