import type { HeaderList, StreamListener, WireStream } from "#kernel/wire/index.ts";

/**
 * An RPC method that takes its HTTP/2 stream itself: no promise, iterator or Headers object a message. It does all that
 * the other layers do for other calls: authentication, limits, the request id, errors as gRPC trailers.
 */
export type HotMethod = (stream: WireStream, headers: HeaderList) => StreamListener;
