import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { EngineCapabilitiesSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { seededRandom } from "#kernel/random.ts";
import type { Candidate } from "../candidate.ts";
import { policies } from "./index.ts";

function candidate(replicaId: string, load: Partial<Candidate> = {}): Candidate {
  return {
    replicaId,
    nodeId: `node-of-${replicaId}`,
    deployment: "pocket",
    capabilities: create(EngineCapabilitiesSchema),
    running: 0,
    queued: 0,
    inFlight: 0,
    ...load,
  };
}

/** Picks once per turn. */
function picks(
  policy: (typeof policies)[keyof typeof policies],
  candidates: readonly Candidate[],
  turns: number,
): string[] {
  const random = seededRandom(7);
  return Array.from({ length: turns }, (_, turn) => policy(candidates, { random, turn }).replicaId);
}

describe.each(Object.entries(policies))("the policy %s", (_name, policy) => {
  test("chooses one of the candidates", () => {
    const candidates = ["a", "b", "c"].map((id) => candidate(id, { running: id.length }));
    for (let turn = 0; turn < 50; turn++) {
      expect(candidates).toContain(policy(candidates, { random: seededRandom(turn), turn }));
    }
  });

  test("chooses the only candidate, however loaded", () => {
    const only = candidate("a", { running: 1000, queued: 1000, inFlight: 1000 });
    expect(policy([only], { random: seededRandom(1), turn: 5 })).toBe(only);
  });

  test("uses every one of equal candidates", () => {
    const chosen = picks(
      policy,
      ["a", "b", "c"].map((id) => candidate(id)),
      100,
    );
    expect([...new Set(chosen)].toSorted()).toEqual(["a", "b", "c"]);
  });

  test("is deterministic for the same chance and turn", () => {
    const candidates = ["a", "b", "c", "d"].map((id) => candidate(id));
    expect(picks(policy, candidates, 20)).toEqual(picks(policy, candidates, 20));
  });

  test("leaves the candidates as they are", () => {
    const candidates = Object.freeze(["a", "b"].map((id) => Object.freeze(candidate(id))));
    expect(() => picks(policy, candidates, 4)).not.toThrow();
  });
});

describe("least-loaded", () => {
  test("adds up running, queued and this router's calls", () => {
    const candidates = [
      candidate("a", { running: 2, queued: 2 }),
      candidate("b", { running: 1, inFlight: 2 }),
      candidate("c", { queued: 5 }),
    ];
    expect(new Set(picks(policies["least-loaded"], candidates, 20))).toEqual(new Set(["b"]));
  });
});

describe("round-robin", () => {
  test("takes each in turn", () => {
    expect(picks(policies["round-robin"], [candidate("a"), candidate("b")], 4)).toEqual(["a", "b", "a", "b"]);
  });
});
