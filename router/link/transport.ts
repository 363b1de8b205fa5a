import type { ConnectRequest, ConnectResponse } from "#gen/helixmesh/link/v1/link_pb.ts";

/** Where an agent's link service is and what opens it. */
export interface LinkTarget {
  /** host:port. */
  readonly address: string;
  /** Sent as "authorization: Bearer". */
  readonly token: string;
}

export interface LinkEvents {
  onMessage(message: ConnectResponse): void;
  /** The stream is over, for whatever reason; called once, and nothing comes after it. */
  onEnd(cause: Error | undefined): void;
}

/** One stream of LinkService.Connect. */
export interface LinkStream {
  /** In order; buffered by the transport. */
  send(message: ConnectRequest): void;
  /** Cuts the stream and its connection; `onEnd` follows unless it came already. */
  close(): void;
}

/** Opens streams. The one place that knows HTTP/2 and gRPC, so that another way of speaking them can replace it. */
export type LinkTransport = (target: LinkTarget, events: LinkEvents) => LinkStream;
