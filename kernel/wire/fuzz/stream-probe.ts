import { ok } from "node:assert";
import {
  ErrorCode,
  type HeaderList,
  type StreamEnd,
  type StreamListener,
  type WireStream,
  encodeBlock,
} from "#kernel/wire/index.ts";

export const answerBytes = 15_000;

/** Hears a stream, does with it what its number says, and holds the connection to its promises. */
export class StreamProbe implements StreamListener {
  readonly #stream: () => WireStream | undefined;
  readonly #events: string[];
  readonly #name: string;
  /**
   * 0: answers at the end of the request; 1: at once; 2: consumes nothing, and its window stays shut; 3: answers at once
   * at length; 4: resets; 5: writes more than it may.
   */
  readonly #behaviour: number;
  #data = "";
  #over = false;
  #ended = false;

  constructor(id: number, events: string[], stream: () => WireStream | undefined) {
    this.#name = `stream ${id}`;
    this.#behaviour = (id >> 1) % 6;
    this.#events = events;
    this.#stream = stream;
  }

  onHeaders(headers: HeaderList): void {
    ok(!this.#over && !this.#ended, "headers come before the end");
    this.#say(`headers ${headers.status} ${headers.fields.join()}`);
  }

  onData(bytes: Buffer, start: number, end: number): void {
    ok(!this.#over && !this.#ended, "data comes before the end");
    this.#data += bytes.toString("hex", start, end);
    if (this.#behaviour === 2) return;
    this.#stream()?.consumed(end - start);
    if (this.#behaviour === 4 && this.#data.length > 8) this.#stream()?.reset(ErrorCode.CANCEL);
  }

  onEnd(trailers: HeaderList | undefined): void {
    ok(!this.#over && !this.#ended, "a message ends once");
    this.#ended = true;
    this.#say(`end ${trailers?.fields.join()}`);
    if (this.#behaviour === 0) this.answer();
  }

  onDrain(): void {
    ok(!this.#over, "nothing drains behind the end");
    this.#stream()?.write(answer, 0, 100);
  }

  onClose(end: StreamEnd): void {
    ok(!this.#over, "a stream closes once");
    this.#over = true;
    this.#say(`closed ${JSON.stringify(end)}`);
    const stream = this.#stream();
    // Nothing happens on a stream that is closed.
    stream?.sendHeaders(okHeaders);
    stream?.write(answer);
    stream?.end();
    stream?.consumed(5);
    stream?.reset(1);
  }

  /** As soon as the request is known. */
  begin(): void {
    if (this.#behaviour === 1) this.#stream()?.sendHeaders(okHeaders, true);
    if (this.#behaviour === 3) this.answer();
    if (this.#behaviour !== 5) return;
    this.#stream()?.sendHeaders(okHeaders);
    for (let count = 0; count < 4; count++) this.#stream()?.writeMessage(answer, 0, answerBytes);
  }

  answer(): void {
    this.#stream()?.sendHeaders(okHeaders);
    this.#stream()?.write(answer);
    this.#stream()?.end([["grpc-status", "0"]]);
  }

  #say(what: string): void {
    this.#events.push(`${this.#name} ${this.#data} ${what}`);
    this.#data = "";
  }
}

const okHeaders = encodeBlock([[":status", "200"]]);
export const answer = Buffer.alloc(answerBytes, 0x61);
