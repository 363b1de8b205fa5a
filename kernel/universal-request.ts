import { Code, ConnectError, type ContextValues } from "@connectrpc/connect";
import type { UniversalServerRequest } from "@connectrpc/connect/protocol";
import type { NodeServerRequest, NodeServerResponse } from "#kernel/node-handler.ts";

/** What connect-es needs of a request. Its signal aborts when the answer is over, however that came. */
export function universalRequest(
  request: NodeServerRequest,
  response: NodeServerResponse,
  contextValues: ContextValues,
): UniversalServerRequest & { readonly body: AsyncIterable<Uint8Array> } {
  const gone = new AbortController();
  response.once("close", () => gone.abort(new ConnectError("The client went away.", Code.Canceled)));
  return {
    httpVersion: request.httpVersion,
    method: request.method ?? "",
    // Only the query of a GET is read; whom the client called is no matter, and may be no valid host.
    url: new URL(request.url ?? "/", "http://localhost").toString(),
    header: headersOf(request),
    // A reader that stops early leaves the rest to whoever ends the answer.
    body: request.iterator({ destroyOnReturn: false }),
    signal: gone.signal,
    contextValues,
  };
}

function headersOf(request: NodeServerRequest): Headers {
  const headers = new Headers();
  for (const [name, value] of Object.entries(request.headers)) {
    if (typeof value === "string") headers.append(name, value);
    else for (const each of value ?? []) headers.append(name, each);
  }
  return headers;
}
