import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { ModelInfoSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { readModelId } from "./request.ts";
import { modelList, oneModel } from "./response.ts";

const models = [create(ModelInfoSchema, { id: "org/pocket", created: 7n })];
const shown = { id: "org/pocket", object: "model", created: 7, owned_by: "helixmesh" };

describe("models", () => {
  test("are listed", () => {
    expect(JSON.parse(modelList(models))).toEqual({ object: "list", data: [shown] });
  });

  test.each(["org/pocket", "org%2Fpocket"])("are found by %s", (id) => {
    expect(JSON.parse(oneModel(models, readModelId(id)))).toEqual(shown);
  });

  test("that do not exist are refused by name", () => {
    expect(() => oneModel(models, "no")).toThrow(
      expect.objectContaining({ reason: Reason.MODEL_NOT_FOUND, field: "model" }),
    );
  });

  test("with a broken escape in the path are refused", () => {
    expect(() => readModelId("%zz")).toThrow(expect.objectContaining({ reason: Reason.INVALID_REQUEST }));
  });
});
