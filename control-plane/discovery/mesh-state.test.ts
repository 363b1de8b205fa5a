import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  AliasSchema,
  DeploymentSchema,
  KeySchema,
  ModelSchema,
  NodeSchema,
  ReplicaSchema,
} from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { type MeshState, applyDelta, diff, emptyMeshState, toSnapshot } from "./mesh-state.ts";

const id = fc.constantFrom("a", "b", "c", "d");
const value = fc.constantFrom("x", "y");

function list<T>(make: (id: string, value: string) => T): fc.Arbitrary<T[]> {
  return fc
    .uniqueArray(fc.tuple(id, value), { selector: ([key]) => key })
    .map((pairs) => pairs.map(([key, text]) => make(key, text)));
}

const states: fc.Arbitrary<MeshState> = fc.record({
  models: list((name, text) => create(ModelSchema, { name, created: text === "x" ? 1n : 2n })),
  aliases: list((name, model) => create(AliasSchema, { name, model })),
  deployments: list((name, policy) => create(DeploymentSchema, { name, model: "m", routing: { policy } })),
  nodes: list((nodeId, linkAddress) => create(NodeSchema, { nodeId, linkAddress })),
  replicas: list((replicaId, nodeId) => create(ReplicaSchema, { replicaId, nodeId })),
  keys: list((keyId, projectId) => create(KeySchema, { keyId, projectId })),
});

/** Order plays no part in a state. */
function sorted(state: MeshState): unknown {
  const text = (item: object): string =>
    JSON.stringify(item, (_, held: unknown) => (typeof held === "bigint" ? `${held}` : held));
  return Object.fromEntries(Object.entries(state).map(([name, items]) => [name, items.map(text).sort()]));
}

test("a state with the delta to another applied is the other", () => {
  fc.assert(
    fc.property(states, states, (before, after) => {
      const delta = diff(before, after, 2n);
      expect(sorted(delta ? applyDelta(before, delta) : before)).toEqual(sorted(after));
    }),
    { numRuns: 300 },
  );
});

test("equal states have no delta, whatever their order", () => {
  fc.assert(
    fc.property(states, (state) => {
      const reversed = { ...state, models: [...state.models].reverse(), keys: [...state.keys].reverse() };
      expect(diff(state, reversed, 2n)).toBe(undefined);
    }),
    { numRuns: 100 },
  );
});

test("a delta names what is new, changed and gone, and nothing else", () => {
  const alias = (name: string, model: string) => create(AliasSchema, { name, model });
  const before = { ...emptyMeshState, aliases: [alias("same", "m"), alias("moved", "m"), alias("gone", "m")] };
  const after = { ...emptyMeshState, aliases: [alias("same", "m"), alias("moved", "n"), alias("new", "m")] };
  const delta = diff(before, after, 7n);
  expect(delta?.version).toBe(7n);
  expect(delta?.upserts?.aliases.map((one) => one.name)).toEqual(["moved", "new"]);
  expect(delta?.removedAliases).toEqual(["gone"]);
  expect(toSnapshot(after, 7n)).toMatchObject({ version: 7n, aliases: [{}, {}, {}], models: [] });
});
