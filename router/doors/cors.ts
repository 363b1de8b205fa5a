import { cors as connectCors } from "@connectrpc/connect";
import { explainHeader } from "../routing/hints.ts";
import type { NodeServerRequest, NodeServerResponse } from "#kernel/node-handler.ts";

/** What a page may read of an answer besides its body. */
const exposed = [
  ...connectCors.exposedHeaders,
  "x-request-id",
  explainHeader,
  "retry-after",
  "retry-after-ms",
  "x-should-retry",
].join(", ");
/** Seconds a browser may remember a preflight; browsers cap it at two hours. */
const preflightMaxAge = "7200";
const longestHeaderList = 2_048;

/** What `createCors` sets on the answer to a request that comes from no page. */
export function headersWithoutOrigin(allowedOrigins: readonly string[]): Readonly<Record<string, string>> {
  return allowedOrigins.length === 0 || allowedOrigins.includes("*") ? {} : { vary: "origin" };
}

/**
 * Lets pages of the given origins call every door (https://fetch.spec.whatwg.org/#http-cors-protocol); with none
 * given, nothing is added and browsers refuse. Credentials are never allowed: keys travel in a header, not in cookies.
 * @returns true when the request was a preflight and is answered.
 */
export function createCors(
  allowedOrigins: readonly string[],
): (request: NodeServerRequest, response: NodeServerResponse) => boolean {
  if (allowedOrigins.length === 0) return () => false;
  const any = allowedOrigins.includes("*");
  const always = Object.entries(headersWithoutOrigin(allowedOrigins));
  const allowed = new Set(allowedOrigins.map((origin) => origin.replace(/\/$/, "")));
  return (request, response) => {
    const origin = request.headers.origin;
    const isPreflight = request.method === "OPTIONS" && request.headers["access-control-request-method"] !== undefined;
    for (const [name, value] of always) response.setHeader(name, value);
    if (typeof origin !== "string") return false;
    if (!any && !allowed.has(origin)) {
      if (!isPreflight) return false;
      response.statusCode = 403;
      response.setHeader("content-type", "text/plain");
      response.end(
        `The origin ${origin.slice(0, 200)} may not call from a browser; the router's setting cors-origins says which may.\n`,
      );
      return true;
    }
    response.setHeader("access-control-allow-origin", any ? "*" : origin);
    if (!isPreflight) {
      response.setHeader("access-control-expose-headers", exposed);
      return false;
    }
    response.statusCode = 204;
    response.setHeader("access-control-allow-methods", "GET, POST");
    response.setHeader("access-control-max-age", preflightMaxAge);
    const asked = request.headers["access-control-request-headers"];
    // Clients add headers of their own (x-stainless-… of OpenAI's), so what the origin asks for is what it gets.
    if (typeof asked === "string" && asked.length <= longestHeaderList && /^[\w\-, ]+$/.test(asked)) {
      response.setHeader("access-control-allow-headers", asked);
    }
    response.end();
    return true;
  };
}
