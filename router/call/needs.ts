import type { GenerateRequest } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Need } from "../routing/candidates.ts";

/** What an engine must be able to do for this request, with the parameter that asks for it. */
export function needsOfGenerate(request: GenerateRequest): readonly Need[] {
  const needs: Need[] = [{ capability: "generate", parameter: "model" }];
  if (request.input.case === "chat") {
    needs.push({ capability: "chat", parameter: "messages" });
    if (request.input.value.tools.length > 0) needs.push({ capability: "tools", parameter: "tools" });
  }
  const format = request.responseFormat?.format.case;
  if (format !== undefined && format !== "text") needs.push({ capability: "grammar", parameter: "response_format" });
  if (request.logprobs) needs.push({ capability: "logprobs", parameter: "logprobs" });
  if (request.sampling?.seed !== undefined) needs.push({ capability: "seed", parameter: "seed" });
  return needs;
}

export const needsOfEmbed: readonly Need[] = [{ capability: "embed", parameter: "model" }];
