import { type GenerateRequest, ToolChoice_Mode } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Need } from "../routing/need.ts";

/** What an engine must be able to do for this request, with the parameter that asks for it. */
export function needsOfGenerate(request: GenerateRequest): readonly Need[] {
  const needs: Need[] = [{ capability: "generate", parameter: "model" }];
  if (request.input.case === "chat") {
    needs.push({ capability: "chat", parameter: "messages" });
    const { tools, toolChoice } = request.input.value;
    if (tools.length > 0) needs.push({ capability: "tools", parameter: "tools" });
    if (toolChoice?.mode === ToolChoice_Mode.REQUIRED || toolChoice?.mode === ToolChoice_Mode.NAMED) {
      needs.push({ capability: "grammar", parameter: "tool_choice" });
    }
    const strict = tools.findIndex((tool) => tool.strict);
    if (strict >= 0 && toolChoice?.mode !== ToolChoice_Mode.NONE) {
      needs.push({ capability: "grammar", parameter: `tools[${strict}].strict` });
    }
  }
  const format = request.responseFormat?.format.case;
  if (format !== undefined && format !== "text") needs.push({ capability: "grammar", parameter: "response_format" });
  if (request.logprobs) needs.push({ capability: "logprobs", parameter: "logprobs" });
  if (request.sampling?.seed !== undefined) needs.push({ capability: "seed", parameter: "seed" });
  return needs;
}

export const needsOfEmbed: readonly Need[] = [{ capability: "embed", parameter: "model" }];
