/** Where an agent's link service is and what opens it. */
export interface LinkTarget {
  /** host:port. */
  readonly address: string;
  /** Sent as "authorization: Bearer". */
  readonly token: string;
}

export interface LinkEvents {
  /** One ConnectResponse, encoded. The bytes are lent for the call. */
  onMessage(bytes: Buffer, start: number, end: number): void;
  /** `writable` is true again. */
  onWritable(): void;
  /** The stream is over, for whatever reason; called once, and nothing comes after it. */
  onEnd(cause: Error | undefined): void;
}

/** One stream of LinkService.Connect. */
export interface LinkStream {
  /** The agent reads what it was sent; otherwise `onWritable` tells when it does again. */
  readonly writable: boolean;
  /** One ConnectRequest, encoded; copied before this returns, and kept when the stream is not writable. */
  send(bytes: Uint8Array, start: number, end: number): void;
  /** Cuts the stream and its connection; `onEnd` follows unless it came already. */
  close(): void;
}

/** Opens streams. The one place that knows HTTP/2 and gRPC, so that another way of speaking them can replace it. */
export type LinkTransport = (target: LinkTarget, events: LinkEvents) => LinkStream;
