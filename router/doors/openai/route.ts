import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { chatCompletions } from "../openai-chat/index.ts";
import { completions } from "../openai-completions/index.ts";
import { embeddings } from "../openai-embeddings/index.ts";
import { HttpRefusal } from "./errors.ts";
import type { Endpoint } from "./exchange.ts";

export type Route =
  | { readonly kind: "post"; readonly endpoint: Endpoint }
  | { readonly kind: "models" }
  /** `id` as it stands in the path. */
  | { readonly kind: "model"; readonly id: string };

/** Those that take a `POST`, by path. */
export const endpoints: ReadonlyMap<string, Endpoint> = new Map([
  ["/v1/chat/completions", chatCompletions],
  ["/v1/completions", completions],
  ["/v1/embeddings", embeddings],
]);

const modelPrefix = "/v1/models/";

/** @throws MeshError ROUTE_NOT_FOUND; HttpRefusal 405 */
export function route(method: string, url: string): Route {
  const path = url.split("?", 1)[0] ?? "";
  const found = routeOfPath(path);
  if (!found) {
    const known = [...endpoints.keys()].map((one) => `POST ${one}`).join(", ");
    const message = `No route ${method} ${JSON.stringify(path.slice(0, 200))}; there are ${known}, GET /v1/models and GET /v1/models/{id}.`;
    throw new MeshError(Reason.ROUTE_NOT_FOUND, message);
  }
  const allow = found.kind === "post" ? ["POST"] : ["GET", "HEAD"];
  if (!allow.includes(method)) {
    const message = `The method ${method} is not allowed here; use ${allow[0]}.`;
    throw new HttpRefusal(Reason.ROUTE_NOT_FOUND, 405, "method_not_allowed", message, { allow: allow.join(", ") });
  }
  return found;
}

function routeOfPath(path: string): Route | undefined {
  const endpoint = endpoints.get(path);
  if (endpoint) return { kind: "post", endpoint };
  if (path === "/v1/models") return { kind: "models" };
  if (path.startsWith(modelPrefix) && path.length > modelPrefix.length) {
    return { kind: "model", id: path.slice(modelPrefix.length) };
  }
  return undefined;
}
