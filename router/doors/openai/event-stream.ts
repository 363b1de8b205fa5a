import type { Clock } from "#kernel/clock.ts";
import type { HttpResponse } from "./exchange.ts";

export interface EventStreamOptions {
  readonly headers: Record<string, string>;
  readonly clock: Clock;
  /** How long the client may leave what was sent unread. */
  readonly stallTimeoutMs: number;
  readonly onStall: () => void;
  /** After a write that returned false: the client caught up, or is gone. */
  readonly onRoom: () => void;
}

/** What may gather within one turn before it is written at once, characters. */
const mostPending = 64 * 1024;

/** RFC 9112, 7.1, with no trailers. */
const lastChunk = "0\r\n\r\n";

const dirty: EventStream[] = [];

/** One look at the end of a turn for all streams that have something to send. */
function flushSoon(stream: EventStream): void {
  if (dirty.push(stream) === 1) setImmediate(flushAll);
}

function flushAll(): void {
  for (const stream of dirty.splice(0)) stream.flush();
}

/**
 * Server-sent events: what is written in one turn of the event loop leaves in one write. Holds at most `mostPending`
 * characters beyond what Node buffers for the socket, for a writer that stops when `write` returns false.
 */
export class EventStream {
  readonly #response: HttpResponse;
  readonly #options: EventStreamOptions;
  /** HTTP/1.1 without a length (RFC 9112, 7.1). Node would put each event's frame into three more writes. */
  readonly #chunked: boolean;
  #pending = "";
  #scheduled = false;
  /** Cuts a client that does not read; set while it does not keep up. */
  #stall: { cancel(): void } | undefined;
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
    this.#chunked = response.chunkedEncoding === true;
    if (this.#chunked) response.chunkedEncoding = false;
    response.on("drain", () => this.#unblock());
    response.on("close", () => {
      this.#over = true;
      this.#unblock();
    });
  }

  /** Takes whole events. False: taken, but the client does not keep up, and the writer waits for `onRoom`. */
  write(events: string): boolean {
    if (this.#over) return true;
    this.#pending += events;
    if (this.#pending.length >= mostPending) {
      this.flush();
    } else if (!this.#scheduled) {
      this.#scheduled = true;
      flushSoon(this);
    }
    return this.#stall === undefined;
  }

  /** One line that no client takes for an event. False: dropped, since the client has something unread. */
  comment(line: string): boolean {
    if (this.#pending !== "" || this.#stall) return false;
    this.write(`: ${line}\n\n`);
    return true;
  }

  /** Writes the last events, with those still pending, and ends the response. */
  end(events: string): void {
    if (this.#over) return;
    this.#over = true;
    const last = this.#framed(this.#pending + events);
    this.#response.end(this.#chunked ? `${last}${lastChunk}` : last);
    this.#pending = "";
  }

  flush(): void {
    this.#scheduled = false;
    if (this.#over || this.#pending === "") return;
    const events = this.#pending;
    this.#pending = "";
    if (!this.#response.write(this.#framed(events))) this.#block();
  }

  #framed(events: string): string {
    return this.#chunked ? `${Buffer.byteLength(events).toString(16)}\r\n${events}\r\n` : events;
  }

  #block(): void {
    if (this.#stall) return;
    const { clock, stallTimeoutMs, onStall } = this.#options;
    this.#stall = clock.setTimer(stallTimeoutMs, () => {
      onStall();
      this.#response.destroy();
    });
  }

  #unblock(): void {
    if (!this.#stall) return;
    this.#stall.cancel();
    this.#stall = undefined;
    this.#options.onRoom();
  }
}
