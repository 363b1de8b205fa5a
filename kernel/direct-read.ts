import { Socket } from "node:net";

/** Node's own reader of a handle: `bytes` from an offset that the state says, as long as what the state says was read. */
type OnRead = (this: StreamHandle, bytes: ArrayBuffer | undefined) => void;

interface StreamHandle {
  onread: OnRead;
  useUserBuffer(bytes: Uint8Array): void;
  readStart(): number;
  readStop(): number;
}

/** What Node's native side says of the read that it calls `onread` for. */
interface ReadState {
  readonly values: Int32Array;
  /** Indexes into `values`. */
  readonly bytesOrError: number;
  readonly offset: number;
}

/** Of all sockets: each read is over before the next begins. A request of a long prompt comes in one or two. */
const memory = Buffer.allocUnsafeSlow(262_144);

const state = findReadState();

/**
 * Reads a plain TCP or Unix socket without `stream.Readable` between, into memory that is used again: Node takes 64 KiB
 * for each read and has the collector give back what is left of it. It stands on four names of Node's `net`, with
 * `DirectWrite`'s; where a release lacks them, `of` returns undefined, and the caller reads through the stream.
 */
export class DirectRead {
  readonly #handle: StreamHandle;
  #onBytes: ((bytes: Buffer) => void) | undefined;

  private constructor(
    handle: StreamHandle,
    { values, bytesOrError, offset }: ReadState,
    onBytes: (bytes: Buffer) => void,
  ) {
    this.#handle = handle;
    this.#onBytes = onBytes;
    const read = handle.onread;
    handle.onread = (bytes) => {
      const count = values[bytesOrError] as number;
      // The end and failures are the stream's; so is what comes without our memory, from whoever reads the handle now.
      if (count <= 0 || bytes !== undefined) return read.call(handle, bytes);
      if (this.#onBytes) return this.#onBytes(memory.subarray(0, count));
      values[offset] = 0;
      read.call(handle, new Uint8Array(memory.subarray(0, count)).buffer);
    };
    handle.useUserBuffer(memory);
  }

  /**
   * From now on `onBytes` gets, lent for the call, what the stream would have emitted as `data`; what the stream holds
   * unread it still emits, and before that nothing comes if it is paused. All other events are as ever. Undefined for
   * what is no connected plain socket: TLS, a Node without these names.
   */
  static of(socket: Socket, onBytes: (bytes: Buffer) => void): DirectRead | undefined {
    if (state === undefined || Object.getPrototypeOf(socket) !== Socket.prototype || socket.connecting)
      return undefined;
    const handle: unknown = Reflect.get(socket, "_handle");
    return isStreamHandle(handle) ? new DirectRead(handle, state, onBytes) : undefined;
  }

  /** The system keeps what comes, and slows the peer down. */
  pause(): void {
    this.#handle.readStop();
  }

  resume(): void {
    this.#handle.readStart();
  }

  /** What comes goes to the stream again, for good. */
  giveBack(): void {
    this.#onBytes = undefined;
  }
}

function isStreamHandle(handle: unknown): handle is StreamHandle {
  return (
    typeof handle === "object" &&
    handle !== null &&
    ["onread", "useUserBuffer", "readStart", "readStop"].every(
      (name) => typeof Reflect.get(handle, name) === "function",
    )
  );
}

function findReadState(): ReadState | undefined {
  try {
    const binding: unknown = Reflect.get(process, "binding");
    if (typeof binding !== "function") return undefined;
    const found = binding.call(process, "stream_wrap") as Readonly<Record<string, unknown>>;
    const { streamBaseState: values, kReadBytesOrError: bytesOrError, kArrayBufferOffset: offset } = found;
    if (!(values instanceof Int32Array) || typeof bytesOrError !== "number" || typeof offset !== "number")
      return undefined;
    return { values, bytesOrError, offset };
  } catch {
    return undefined;
  }
}
