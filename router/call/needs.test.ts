import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import {
  type ChatInputSchema,
  GenerateRequestSchema,
  ToolChoice_Mode,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { needsOfGenerate } from "./needs.ts";

function grammarNeeds(value: MessageInitShape<typeof ChatInputSchema>): readonly string[] {
  const request = create(GenerateRequestSchema, { input: { case: "chat", value } });
  return needsOfGenerate(request).flatMap(({ capability, parameter }) => (capability === "grammar" ? [parameter] : []));
}

test.each([
  ["grammar for a strict tool", [{ name: "f" }, { name: "g", strict: true }], undefined, ["tools[1].strict"]],
  ["no grammar for a strict tool that must not be called", [{ name: "g", strict: true }], ToolChoice_Mode.NONE, []],
  ["no grammar for tools that are not strict", [{ name: "f" }], undefined, []],
])("needs %s", (_, tools, mode, parameters) => {
  expect(grammarNeeds({ tools, ...(mode === undefined ? {} : { toolChoice: { mode } }) })).toEqual(parameters);
});
