import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { ReplicaLoadSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type Filling, fillOf, isHeldUp } from "./fill.ts";

const fill = (about: Partial<Filling>) =>
  fillOf({ calls: 0, parallelSequences: 4, heldUp: false, mostCalls: Number.POSITIVE_INFINITY, ...about });

describe("a replica", () => {
  test.each([
    ["free", "is idle, whatever its report says", { heldUp: true, mostCalls: 1 }],
    ["free", "decodes fewer than it can", { calls: 3 }],
    ["free", "does not say what it can take", { calls: 500, parallelSequences: 0 }],
    ["at-hand", "decodes all that it can", { calls: 4 }],
    ["full", "has one more at hand", { calls: 5 }],
    ["full", "holds up what it has", { calls: 1, heldUp: true }],
    ["full", "has as many as when it refused one", { calls: 2, mostCalls: 2 }],
  ] as const)("is %s that %s", (expected, _what, about) => {
    expect(fill(about)).toBe(expected);
  });

  test.each<[string, Exclude<MessageInitShape<typeof ReplicaLoadSchema>, { $typeName: string }>]>([
    ["has calls that its engine does not begin", { running: 3, queued: 1 }],
    [
      "has no room in its KV cache",
      { running: 2, kvUsedTokens: 900n, prefillBacklogTokens: 100n, kvTotalTokens: 1000n },
    ],
    ["has prompts for seconds before it", { running: 2, prefillBacklogTokens: 2_100n, prefillTokensPerS: 1_000 }],
  ])("is held up that %s", (_what, load) => {
    expect(isHeldUp(create(ReplicaLoadSchema, load))).toBe(true);
  });

  test("is not held up that has measured nothing yet", () => {
    expect(isHeldUp(create(ReplicaLoadSchema, { running: 2, prefillBacklogTokens: 9_000n }))).toBe(false);
  });
});
