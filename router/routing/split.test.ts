import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { type Deployment, DeploymentSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { DeploymentRoutingSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { chooseDeployment, chooseShadows, fallbackModels } from "./split.ts";

type Routing = MessageInitShape<typeof DeploymentRoutingSchema>;

const all = (): boolean => true;

function deployments(routings: Readonly<Record<string, Routing>>): Deployment[] {
  return Object.entries(routings).map(([name, routing]) => create(DeploymentSchema, { name, model: "m", routing }));
}

/** How often each deployment takes one of 1,000 calls whose rolls are spread evenly. */
function shares(of: readonly Deployment[], canary?: string, canTake: (deployment: Deployment) => boolean = all) {
  const counts: Record<string, number> = {};
  for (let i = 0; i < 1_000; i++) {
    const name = chooseDeployment(of, { canary, roll: i / 1_000 }, canTake)?.name ?? "none";
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

describe("a model's calls", () => {
  test("are shared alike when nobody has a weight", () => {
    expect(shares(deployments({ a: {}, b: {} }))).toEqual({ a: 500, b: 500 });
  });

  test("are shared by weight, and none go to a weight of 0 beside others", () => {
    expect(shares(deployments({ a: { weight: 9 }, b: { weight: 1 }, c: {} }))).toEqual({ a: 900, b: 100 });
  });

  test("leave a deployment that cannot take them to the others", () => {
    const of = deployments({ a: { weight: 8 }, b: { weight: 1 }, c: { weight: 1 } });
    expect(shares(of, undefined, ({ name }) => name !== "a")).toEqual({ b: 500, c: 500 });
    expect(shares(of, undefined, () => false)).toEqual({ none: 1_000 });
  });

  test("with a canary value go to its deployment, whatever the weights", () => {
    const of = deployments({ a: { weight: 1 }, b: { canary: "next" } });
    expect(shares(of, "next")).toEqual({ b: 1_000 });
    expect(shares(of, "other")).toEqual({ a: 1_000 });
    expect(shares(of)).toEqual({ a: 1_000 });
  });

  test("without one stay away from a canary without weight also when nobody has a weight", () => {
    expect(shares(deployments({ a: {}, b: { canary: "next" } }))).toEqual({ a: 1_000 });
    expect(shares(deployments({ a: { weight: 1 }, b: { canary: "next", weight: 1 } }))).toEqual({ a: 500, b: 500 });
  });

  test("with a canary value whose deployment cannot take them go where the others go", () => {
    const of = deployments({ a: {}, b: { canary: "next" } });
    expect(shares(of, "next", ({ name }) => name !== "b")).toEqual({ a: 1_000 });
  });

  test("never go to a shadow deployment, which gets its per cent of copies", () => {
    const of = deployments({ a: {}, b: { shadowPercent: 25, weight: 5 } });
    expect(shares(of)).toEqual({ a: 1_000 });
    const copies = Array.from({ length: 100 }, (_, i) => chooseShadows(of, () => i / 100).map(({ name }) => name));
    expect(copies.filter((names) => names.length > 0)).toEqual(Array.from({ length: 25 }, () => ["b"]));
  });

  test("have at most eight fallback models, each once, in order", () => {
    const many = ["x", "y", "x", ...Array.from({ length: 10 }, (_, i) => `z${i}`)];
    const models = fallbackModels(deployments({ a: { fallbackModels: ["y"] }, b: { fallbackModels: many } }));
    expect(models).toEqual(["y", "x", "z0", "z1", "z2", "z3", "z4", "z5"]);
  });
});
