import { invariant } from "#kernel/invariant.ts";

/** Every bound of a connection in one place. Reaching one is reported through `WireOptions.onBound` by its name here. */
export interface WireLimits {
  /** Streams that a peer may have open at once. Above it: REFUSED_STREAM, which is safe to retry. */
  readonly maxConcurrentStreams: number;
  /** Of one header list, each field counted as name + value + 32 (RFC 9113, 6.5.2). Above it a request gets 431. */
  readonly maxHeaderListBytes: number;
  /** Fields in one header list. Above it a request gets 431. */
  readonly maxHeaderFields: number;
  /** CONTINUATION frames that one header block may take (CVE-2024-27316). */
  readonly maxContinuations: number;
  /** Receive window of a stream: what a handler may have to hold before it calls `consumed`. At least 65,535. */
  readonly streamWindowBytes: number;
  /** Receive window of the connection, shared by its streams. At least 65,535. */
  readonly connectionWindowBytes: number;
  /** Framed and not yet taken by the socket. DATA above it waits at its stream. */
  readonly maxUnsentBytes: number;
  /** Waiting at one stream for a window or the socket. The stream is reset above it. */
  readonly maxStreamWaitingBytes: number;
  /** Waiting and unsent on one connection. The stream that would exceed it is reset. */
  readonly maxBufferedBytes: number;
  /** The same over all connections of one `Wire`. */
  readonly maxGlobalBufferedBytes: number;
  /** RST_STREAM received, and resets that a peer provokes (CVE-2023-44487, CVE-2025-8671). A stream that ends earns one. */
  readonly resets: Rate;
  readonly settings: Rate;
  /** Each DATA or HEADERS frame of ours earns the peer one more, because gRPC peers probe bandwidth with pings. */
  readonly pings: Rate;
  /** Frames that carry next to nothing: DATA of under 5 bytes, PRIORITY, unknown types, interim responses. */
  readonly emptyFrames: Rate;
  /** Each DATA frame of ours that no window cut short earns the peer two more. */
  readonly windowUpdates: Rate;
  /** For TCP, TLS, the preface and SETTINGS, and for our SETTINGS to be acknowledged. */
  readonly handshakeTimeoutMs: number;
  /** Between HEADERS and END_HEADERS. */
  readonly headersTimeoutMs: number;
  /** A connection without streams is drained after it. */
  readonly idleTimeoutMs: number;
  /** Silence of the peer before a PING asks whether it is there. */
  readonly keepAliveIntervalMs: number;
  /** Silence after that PING before the connection is cut. */
  readonly keepAliveTimeoutMs: number;
  /** Bytes that wait for a window or the socket without any progress. Then the stream, or the connection, is cut. */
  readonly stallTimeoutMs: number;
  /** After a GOAWAY for a fault: for it to be read, before the socket is destroyed. */
  readonly lingerTimeoutMs: number;
}

export interface Rate {
  /** How many at once. */
  readonly burst: number;
  readonly perSecond: number;
}

/** Names of the bounds as they appear in metrics. */
export type Bound = keyof WireLimits;

const defaultWireLimits: WireLimits = {
  maxConcurrentStreams: 1_000,
  maxHeaderListBytes: 32_768,
  maxHeaderFields: 200,
  maxContinuations: 8,
  streamWindowBytes: 262_144,
  connectionWindowBytes: 4_194_304,
  maxUnsentBytes: 262_144,
  maxStreamWaitingBytes: 1_048_576,
  maxBufferedBytes: 16_777_216,
  maxGlobalBufferedBytes: 536_870_912,
  resets: { burst: 1_000, perSecond: 100 },
  settings: { burst: 20, perSecond: 1 },
  pings: { burst: 50, perSecond: 5 },
  emptyFrames: { burst: 1_000, perSecond: 100 },
  windowUpdates: { burst: 4_000, perSecond: 1_000 },
  handshakeTimeoutMs: 10_000,
  headersTimeoutMs: 10_000,
  idleTimeoutMs: 600_000,
  keepAliveIntervalMs: 30_000,
  keepAliveTimeoutMs: 20_000,
  stallTimeoutMs: 60_000,
  lingerTimeoutMs: 1_000,
};

/** RFC 9113, 6.5.2: a peer may use windows of this size until it has seen our SETTINGS. */
export const initialWindowBytes = 65_535;

export function wireLimits(changes: Partial<WireLimits> = {}): WireLimits {
  const limits = { ...defaultWireLimits, ...changes };
  invariant(limits.streamWindowBytes >= initialWindowBytes, "streamWindowBytes is at least 65535");
  invariant(limits.connectionWindowBytes >= initialWindowBytes, "connectionWindowBytes is at least 65535");
  return limits;
}
