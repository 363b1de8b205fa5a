import { ConnectError } from "@connectrpc/connect";
import { LinkService } from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { GrpcMessageReader, grpcFault } from "#kernel/grpc-messages.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import {
  type Bound,
  type ClientConnection,
  ErrorCode,
  type HeaderFields,
  type HeaderList,
  type StreamEnd,
  type StreamListener,
  Wire,
  type WireStream,
  connectWire,
} from "#kernel/wire/index.ts";
import type { LinkEvents, LinkStream, LinkTarget, LinkTransport } from "./transport.ts";

/** Largest message of an agent: one embedding answer of 2,048 vectors fits several times. */
const maxMessageBytes = 256 * 1024 * 1024;
const path = `/${LinkService.typeName}/${LinkService.method.connect.name}`;

export interface WireTransportOptions {
  /** PEM certificates that sign the agents'; without it links are cleartext, for networks that are private. */
  readonly ca?: Buffer | undefined;
  readonly connectTimeoutMs: number;
  readonly clock: Clock;
  readonly onBound?: (bound: Bound) => void;
}

/** The link over HTTP/2 of our own: one connection and one stream an agent. */
export function createWireLinkTransport(options: WireTransportOptions): LinkTransport {
  const { ca, clock, connectTimeoutMs, onBound } = options;
  const wire = new Wire({
    clock,
    ...(onBound && { onBound }),
    limits: {
      handshakeTimeoutMs: connectTimeoutMs,
      // A read answers all calls of a node: no window may make them wait while the router keeps up.
      streamWindowBytes: 4_194_304,
      connectionWindowBytes: 8_388_608,
      // The link writes only when nothing waits, one message of at most one request over `batchBytes`, and the router's
      // limits on calls and their size bound the sum; a link reset for it would end every call of the node.
      maxBufferedBytes: Number.MAX_SAFE_INTEGER,
      maxGlobalBufferedBytes: Number.MAX_SAFE_INTEGER,
    },
  });
  return (target, events) => new WireLinkStream(wire, ca, target, events);
}

type State =
  | { readonly kind: "connecting"; readonly unsent: Uint8Array[]; readonly given: AbortController }
  | { readonly kind: "open"; readonly connection: ClientConnection; readonly stream: WireStream }
  | { readonly kind: "over" };

class WireLinkStream implements LinkStream, StreamListener {
  readonly #target: LinkTarget;
  readonly #scheme: "http" | "https";
  readonly #events: LinkEvents;
  #state: State;
  #reader: GrpcMessageReader | undefined;
  /** Of an answer that is headers alone, these tell its status. */
  #headers: HeaderList | undefined;

  constructor(wire: Wire, ca: Buffer | undefined, target: LinkTarget, events: LinkEvents) {
    this.#target = target;
    this.#scheme = ca ? "https" : "http";
    this.#events = events;
    const given = new AbortController();
    this.#state = { kind: "connecting", unsent: [], given };
    const tls = ca && { ca };
    connectWire(wire, { ...hostAndPort(target.address), tls, signal: given.signal }).then(
      (connection) => this.#open(connection),
      (error: Error) => this.#end(error),
    );
  }

  get writable(): boolean {
    return this.#state.kind === "open" && this.#state.stream.writable;
  }

  send(bytes: Uint8Array, start: number, end: number): void {
    const state = this.#state;
    if (state.kind === "open") state.stream.writeMessage(bytes, start, end);
    else if (state.kind === "connecting") state.unsent.push(Uint8Array.from(bytes.subarray(start, end)));
  }

  close(): void {
    this.#end(undefined);
  }

  #open(connection: ClientConnection): void {
    const state = this.#state;
    if (state.kind !== "connecting") return connection.destroy();
    const { address, token } = this.#target;
    const fields: HeaderFields = [
      [":method", "POST"],
      [":scheme", this.#scheme],
      [":path", path],
      [":authority", address],
      ["content-type", "application/grpc+proto"],
      ["te", "trailers"],
      ["user-agent", "helixmesh-router"],
      ["authorization", `Bearer ${token}`],
    ];
    const stream = connection.request(fields, this);
    if (!stream) {
      connection.destroy();
      return this.#end(new Error("the agent allows no streams on its connection"));
    }
    this.#state = { kind: "open", connection, stream };
    for (const bytes of state.unsent) this.send(bytes, 0, bytes.length);
  }

  onHeaders(headers: HeaderList): void {
    this.#headers = headers;
    if (headers.status !== "200" || !headers.get("content-type")?.startsWith("application/grpc")) {
      return this.#end(new Error(`the answer is HTTP ${headers.status}, ${headers.get("content-type") ?? "no type"}`));
    }
    this.#reader = new GrpcMessageReader({
      maxBytes: maxMessageBytes,
      encoding: headers.get("grpc-encoding"),
      onMessage: (bytes, start, end) => {
        if (this.#state.kind === "open") this.#events.onMessage(bytes, start, end);
      },
    });
  }

  onData(bytes: Buffer, start: number, end: number): void {
    const state = this.#state;
    if (state.kind !== "open") return;
    const fault = this.#read(bytes, start, end);
    if (fault) this.#end(fault);
    else state.stream.consumed(end - start);
  }

  /** What is wrong with the bytes. What the link does with a message is its own: its exceptions are defects. */
  #read(bytes: Buffer, start: number, end: number): Error | undefined {
    try {
      this.#reader?.push(bytes, start, end);
      return undefined;
    } catch (error) {
      if (error instanceof MeshError || error instanceof ConnectError) return error;
      throw error;
    }
  }

  onEnd(trailers: HeaderList | undefined): void {
    const last = trailers ?? this.#headers;
    this.#end(last && grpcFault(last));
  }

  onDrain(): void {
    this.#events.onWritable();
  }

  onClose(end: StreamEnd): void {
    switch (end.kind) {
      case "complete":
        return this.#end(undefined);
      case "reset":
        return this.#end(new Error(`the stream was reset by ${end.by}: ${end.reason} (code ${end.code})`));
      case "lost":
        return this.#end(new Error(end.reason));
    }
  }

  #end(cause: Error | undefined): void {
    const state = this.#state;
    if (state.kind === "over") return;
    this.#state = { kind: "over" };
    if (state.kind === "connecting") state.given.abort();
    else state.connection.destroy(ErrorCode.NO_ERROR, "the link ended");
    this.#events.onEnd(cause);
  }
}

/** `[::1]:9090` too. */
function hostAndPort(address: string): { readonly host: string; readonly port: number } {
  const colon = address.lastIndexOf(":");
  const host = address.slice(0, colon).replace(/^\[(.*)\]$/, "$1");
  return { host, port: Number(address.slice(colon + 1)) };
}
