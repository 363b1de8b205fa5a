import type { Clock } from "#kernel/clock.ts";
import type { HttpResponse } from "./exchange.ts";

export interface EventStreamOptions {
  readonly headers: Record<string, string>;
  readonly clock: Clock;
  /** How long the client may leave what was sent unread. */
  readonly stallTimeoutMs: number;
  readonly onStall: () => void;
}

/** What may gather within one turn before it is written at once, characters. */
const mostPending = 64 * 1024;

/**
 * Server-sent events: what is written in one turn of the event loop leaves in one write. Holds at most `mostPending`
 * characters beyond what Node buffers for the socket; a writer that awaits `room` stays within that.
 */
export class EventStream {
  readonly #response: HttpResponse;
  readonly #options: EventStreamOptions;
  #pending = "";
  #flush: NodeJS.Immediate | undefined;
  #blocked: PromiseWithResolvers<void> | undefined;
  #over = false;

  constructor(response: HttpResponse, options: EventStreamOptions) {
    this.#response = response;
    this.#options = options;
    response.writeHead(200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache",
      // Keeps nginx from gathering events.
      "x-accel-buffering": "no",
      ...options.headers,
    });
    response.on("drain", () => this.#unblock());
    response.on("close", () => {
      this.#over = true;
      this.#unblock();
    });
  }

  /** Takes whole events. */
  write(events: string): void {
    if (this.#over) return;
    this.#pending += events;
    if (this.#pending.length >= mostPending) this.#send();
    else this.#flush ??= setImmediate(() => this.#send());
  }

  /** A promise means that the client does not keep up: the writer waits for it before it writes more. */
  get room(): Promise<void> | undefined {
    return this.#blocked?.promise;
  }

  /** Writes the last events, with those still pending, and ends the response. */
  end(events: string): void {
    if (this.#over) return;
    this.#over = true;
    clearImmediate(this.#flush);
    this.#response.end(this.#pending + events);
    this.#pending = "";
  }

  #send(): void {
    clearImmediate(this.#flush);
    this.#flush = undefined;
    if (this.#over || this.#pending === "") return;
    const events = this.#pending;
    this.#pending = "";
    if (!this.#response.write(events)) this.#block();
  }

  #block(): void {
    if (this.#blocked) return;
    const { clock, stallTimeoutMs, onStall } = this.#options;
    const timer = clock.setTimer(stallTimeoutMs, () => {
      onStall();
      this.#response.destroy();
    });
    this.#blocked = Promise.withResolvers<void>();
    void this.#blocked.promise.then(() => timer.cancel());
  }

  #unblock(): void {
    this.#blocked?.resolve();
    this.#blocked = undefined;
  }
}
