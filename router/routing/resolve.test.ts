import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { indexSnapshot } from "../discovery/snapshot.ts";
import { resolve } from "./resolve.ts";

const snapshot = indexSnapshot(
  create(SnapshotSchema, {
    models: [{ name: "pocket" }, { name: "idle" }],
    aliases: [
      { name: "small", model: "pocket" },
      { name: "dangling", model: "gone" },
      { name: "idle", model: "pocket" },
      { name: "tiny", model: "small" },
      { name: "round", model: "about" },
      { name: "about", model: "round" },
      ...Array.from({ length: 10 }, (_, i) => ({ name: `a${i}`, model: `a${i + 1}` })),
      { name: "b1", model: "a10" },
      { name: "a10", model: "pocket" },
      { name: "lost", model: "dangling" },
    ],
    deployments: [{ name: "pocket-a", model: "pocket" }],
  }),
);

describe("resolving a model", () => {
  test("takes its name or an alias", () => {
    expect(resolve(snapshot, "pocket").model.name).toBe("pocket");
    expect(resolve(snapshot, "small").model.name).toBe("pocket");
    expect(resolve(snapshot, "small").deployments.map((item) => item.name)).toEqual(["pocket-a"]);
  });

  test.each(["nope", "dangling", "idle", ""])("refuses %j with MODEL_NOT_FOUND naming the field", (name) => {
    expect(() => resolve(snapshot, name)).toThrow(
      expect.objectContaining({ reason: Reason.MODEL_NOT_FOUND, field: "model" }),
    );
  });

  test("follows aliases of aliases, up to eight", () => {
    expect(resolve(snapshot, "tiny").model.name).toBe("pocket");
    expect(resolve(snapshot, "a3").model.name).toBe("pocket");
  });

  test.each([
    ["a2", /more than 8/],
    ["round", /"round" → "about" → "round" go round in a circle/],
    ["lost", /"lost" → "dangling" → "gone" ends at "gone"/],
  ])("says what is wrong with the chain of %j", (name, message) => {
    expect(() => resolve(snapshot, name)).toThrow(message);
  });
});
