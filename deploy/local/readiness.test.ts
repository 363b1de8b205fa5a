import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { DeploymentSchema } from "#gen/helixmesh/control/v1/control_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { describeDeployment, type ReadinessParts, waitForAnswer } from "./readiness.ts";

function deployment(...states: ReplicaState[]) {
  return create(DeploymentSchema, {
    name: "pocket",
    model: "pocket",
    replicas: 2,
    current: states.map((state, index) => ({
      nodeName: `local-${index + 1}`,
      status: { state, progress: 0.4, message: "no memory" },
    })),
  });
}

const { READY, LOADING, FAILED } = ReplicaState;

/** A clock whose timers fire as soon as they are set. */
class EagerClock extends ManualClock {
  override setTimer(delayMs: number, callback: () => void) {
    const timer = super.setTimer(delayMs, callback);
    queueMicrotask(() => this.advance(delayMs));
    return timer;
  }
}

function parts(overrides: Partial<ReadinessParts>): ReadinessParts {
  return {
    look: async () => deployment(READY, READY),
    ask: async () => "Tokyo",
    clock: new EagerClock(),
    timeoutMs: 10_000,
    step: () => {},
    signal: new AbortController().signal,
    ...overrides,
  };
}

describe("waitForAnswer", () => {
  test("waits for every replica, then for a real answer", async () => {
    const looks = [deployment(), deployment(LOADING), deployment(READY, LOADING)];
    const asks = [new ConnectError("no replica is ready", Code.Unavailable), "", "Tokyo"];
    const steps: string[] = [];
    await waitForAnswer(
      parts({
        look: async () => looks.shift() ?? deployment(READY, READY),
        ask: async () => {
          const next = asks.shift() ?? "";
          if (typeof next !== "string") throw next;
          return next;
        },
        step: (text) => steps.push(text),
      }),
    );
    expect(asks).toEqual([]);
    expect(steps).toContain("Loading pocket: 1 of 2 replicas ready; local-2 is loading, 40 %");
  });

  test("says what it waited for when time is up", async () => {
    await expect(waitForAnswer(parts({ look: async () => deployment(FAILED, READY) }))).rejects.toThrow(
      /did not answer within 10 s.*local-1 failed: no memory/,
    );
  });

  test("ends quietly when a stop is requested", async () => {
    await waitForAnswer(parts({ look: async () => deployment(), signal: AbortSignal.abort() }));
  });
});

test("a deployment that cannot be placed says why", () => {
  const unplaced = create(DeploymentSchema, { model: "pocket", replicas: 2, unplacedReason: "no node is online" });
  expect(describeDeployment(unplaced)).toBe("Loading pocket: 0 of 2 replicas ready; no node is online");
});
