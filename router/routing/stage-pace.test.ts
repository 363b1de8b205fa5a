import { describe, expect, test } from "vitest";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { StagePace } from "./stage-pace.ts";

describe("the pace of a stage", () => {
  test("tells what is left from how far it came since it was seen", () => {
    const pace = new StagePace(ReplicaState.LOADING, 0.2, 1_000);
    expect(pace.leftMs(0.4, 3_000)).toBeCloseTo(6_000);
    expect(pace.leftMs(1, 9_000)).toBe(0);
  });

  test("is unknown while nothing has moved, and measured anew when the stage began anew", () => {
    const pace = new StagePace(ReplicaState.FETCHING, 0.5, 0);
    expect(pace.leftMs(0.5, 60_000)).toBeUndefined();
    expect(pace.leftMs(0.1, 60_000)).toBeUndefined();
    expect(pace.leftMs(0.2, 61_000)).toBeCloseTo(8_000);
  });
});
