import { ByteBuffer } from "#kernel/wire/byte-buffer.ts";
import type { HeaderList } from "#kernel/wire/header-list.ts";
import type { HeaderFields } from "#kernel/wire/hpack-encoder.ts";
import type { StreamEnd, StreamListener, WireStream } from "#kernel/wire/stream.ts";
import { ErrorCode } from "#kernel/wire/wire-error.ts";

/** A request for a handler that is not hot: promises and iterables instead of callbacks. */
export interface GenericRequest {
  readonly headers: HeaderList;
  /** The body, once. What is not read keeps the client's window closed. Throws when the stream ends before the body. */
  readonly body: AsyncIterable<Uint8Array>;
  /** Aborts when the stream is gone before its response was complete. */
  readonly signal: AbortSignal;
}

export interface GenericResponse {
  readonly status: number;
  readonly headers: HeaderFields;
  readonly body?: AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
  /** Asked for when the body is at its end. */
  readonly trailers?: () => HeaderFields;
}

/** `respond` resolves when all was written, and rejects when the stream is gone. */
export type GenericHandler = (
  request: GenericRequest,
  respond: (response: GenericResponse) => Promise<void>,
) => Promise<void>;

/** Larger pieces of a body are cut, so that the client's pace is asked for in between. */
const pieceBytes = 65_536;

/** Hands a stream to a generic handler. Its failure resets the stream and is told to `onError`. */
export function handOver(
  stream: WireStream,
  headers: HeaderList,
  handler: GenericHandler,
  onError: (error: unknown) => void,
): StreamListener {
  const exchange = new Exchange(stream);
  const { signal } = exchange;
  void handler({ headers, body: exchange.body(), signal }, (response) => exchange.respond(response)).then(
    () => exchange.finish(),
    (error: unknown) => {
      // A handler that fails because its client left has nothing to report.
      if (!signal.aborted) onError(error);
      stream.reset(ErrorCode.INTERNAL_ERROR);
    },
  );
  return exchange;
}

class Exchange implements StreamListener {
  readonly #stream: WireStream;
  readonly #gone = new AbortController();
  readonly #arrived = new ByteBuffer();
  #bodyEnded = false;
  #closed = false;
  #wakeReader: (() => void) | undefined;
  #wakeWriter: (() => void) | undefined;

  constructor(stream: WireStream) {
    this.#stream = stream;
  }

  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  /** Bounded by the stream's window, which opens again as the body is read. */
  onData(bytes: Buffer, start: number, end: number): void {
    this.#arrived.append(bytes, start, end);
    this.#wakeReader?.();
  }

  onEnd(): void {
    this.#bodyEnded = true;
    this.#wakeReader?.();
  }

  onDrain(): void {
    this.#wakeWriter?.();
  }

  onClose(end: StreamEnd): void {
    this.#closed = true;
    if (end.kind !== "complete") this.#gone.abort(new Error(`the stream is gone: ${end.reason}`));
    this.#wakeReader?.();
    this.#wakeWriter?.();
    if (this.#bodyEnded) return;
    this.#arrived.release();
  }

  async *body(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const { length } = this.#arrived;
      if (length > 0) {
        const piece = Uint8Array.from(this.#arrived.bytes.subarray(this.#arrived.start, this.#arrived.end));
        this.#arrived.skip(length);
        this.#stream.consumed(length);
        yield piece;
      } else if (this.#bodyEnded) {
        return;
      } else if (this.#closed) {
        throw this.#reason();
      } else {
        await new Promise<void>((resolve) => (this.#wakeReader = resolve));
      }
    }
  }

  async respond(response: GenericResponse): Promise<void> {
    const fields: HeaderFields = [[":status", String(response.status)], ...response.headers];
    this.#stream.sendHeaders(fields);
    for await (const chunk of response.body ?? []) {
      for (let at = 0; at < chunk.length; at += pieceBytes) {
        if (!this.#stream.write(chunk, at, Math.min(chunk.length, at + pieceBytes))) await this.#drained();
      }
    }
    if (this.#closed) throw this.#reason();
    this.#stream.end(response.trailers?.());
  }

  /** The handler is done; one that never answered must not leave its client waiting. */
  finish(): void {
    if (!this.#closed && this.#stream.state.sends && this.#stream.writable)
      this.#stream.reset(ErrorCode.INTERNAL_ERROR);
  }

  async #drained(): Promise<void> {
    if (!this.#closed) await new Promise<void>((resolve) => (this.#wakeWriter = resolve));
    if (this.#closed) throw this.#reason();
  }

  #reason(): Error {
    const { reason } = this.#gone.signal;
    return reason instanceof Error ? reason : new Error("the stream is closed");
  }
}
