import type { Waiting } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { MessageWriter } from "../link/link-call.ts";

/**
 * Where the answer of one call goes. `writeMessage` any number of times, then `finish`, `fail` or `cut`, once and last; all from
 * the link's read or a timer, and maybe before the function that began the call has returned.
 */
export interface ResponseSink extends MessageWriter {
  /**
   * Takes one encoded response. The bytes are lent for the call: copy what must last. False: taken, but the client does
   * not keep up, and nothing more comes before `RunningCall.resume`.
   */
  writeMessage(bytes: Uint8Array, start: number, end: number): boolean;
  /** Who does with further responses what `writeMessage` would; absent where that is only the sink itself. */
  readonly direct?: MessageWriter | undefined;
  finish(): void;
  fail(error: MeshError): void;
  /** As `fail`, for a client that left more unread than may wait for it: an error behind the rest would not reach it. */
  cut(error: MeshError): void;
  /**
   * Forgets what was written, for the answer begins anew with its Started: a call whose engine dies late is still whole
   * for a client that has nothing of it yet. False: the client has a part.
   */
  restart(): boolean;
  /**
   * Tells the client what its call waits for; at any time before the end, and no part of the answer: nobody keeps, counts
   * or repeats it. False: dropped, since its client has something unread. Absent where the client did not ask.
   */
  readonly wait?: ((waiting: Waiting) => boolean) | undefined;
}

/** What a door does to a call that it began. Harmless once the call is over. */
export interface RunningCall {
  /** After a `writeMessage` that returned false: the client has caught up. */
  resume(): void;
  /** The client wants no answer any more; `reason` says so when it was not the client (a drain, a deadline). */
  abort(reason?: unknown): void;
}
