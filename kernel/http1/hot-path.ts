import type { HotResponse } from "#kernel/http1/hot-response.ts";
import type { RequestHead } from "#kernel/http1/request-head.ts";

/**
 * Takes requests over HTTP/1.1 from the connection itself, without node:http: no streams, events or header objects a
 * request. What it returns gets the whole body, lent for the call; it does not answer before it has returned. Undefined
 * leaves the request, and its connection, to node:http. `hasBody`: the body has come with the head.
 */
export type HotPath = (
  head: RequestHead,
  response: HotResponse,
  hasBody: boolean,
) => ((body: Buffer) => void) | undefined;
