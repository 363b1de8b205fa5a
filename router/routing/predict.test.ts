import { describe, expect, test } from "vitest";
import type { Candidate } from "./candidate.ts";
import { predict } from "./predict.ts";
import { DeploymentRates } from "./rates.ts";

const rates = { callMs: 1_000, stepSlopeUs: 500, prefillTokensPerS: 1_000, bias: 1 };

function candidate(load: Partial<Candidate> = {}): Candidate {
  return {
    replicaId: "r1",
    nodeId: "n1",
    deployment: "d",
    parallelSequences: 4,
    running: 0,
    queued: 0,
    calls: 0,
    backlogTokens: 0,
    stepTimeUs: 10_000,
    prefillTokensPerS: 2_000,
    correction: 1,
    fill: "free",
    awayMs: 0,
    ...load,
  };
}

describe("a predicted time to first token", () => {
  test("is the prompt that is not cached at the measured rate, and a step", () => {
    expect(predict(candidate(), 1_000, rates)).toMatchObject({
      waitMs: 0,
      backlogMs: 0,
      prefillMs: 500,
      stepMs: 10.5,
      shareMs: 0,
      ttftMs: 510.5,
      costMs: 510.5,
    });
  });

  test("takes the deployment's rate where the replica has not measured its own", () => {
    expect(predict(candidate({ prefillTokensPerS: 0 }), 1_000, rates).prefillMs).toBe(1_000);
  });

  test("waits for prompts before it, and for places when the batch is full", () => {
    expect(predict(candidate({ backlogTokens: 400 }), 0, rates).backlogMs).toBe(200);
    expect(predict(candidate({ calls: 3, running: 3 }), 0, rates).waitMs).toBe(0);
    expect(predict(candidate({ calls: 4, running: 4 }), 0, rates).waitMs).toBe(250);
    expect(predict(candidate({ calls: 7, running: 4 }), 0, rates).waitMs).toBe(1_000);
  });

  test("weighs what the neighbours lose, which is not part of the time", () => {
    const { shareMs, ttftMs, costMs } = predict(candidate({ calls: 2, running: 2 }), 1_000, rates);
    expect(shareMs).toBeCloseTo(0.1 * 2 * 500.5);
    expect(costMs).toBeCloseTo(ttftMs + shareMs);
  });

  test("is corrected by what was observed of the deployment and of the replica", () => {
    expect(predict(candidate({ correction: 2 }), 1_000, { ...rates, bias: 1.5 }).ttftMs).toBeCloseTo(510.5 * 3);
  });
});

describe("a deployment's rates", () => {
  test("find what one more sequence adds to a step", () => {
    const measured = new DeploymentRates();
    expect(measured.stepSlopeUs).toBe(0);
    for (let i = 0; i < 200; i++) measured.observeLoad(1 + (i % 8), 15_000 + 300 * (1 + (i % 8)), 8_000);
    expect(measured.stepSlopeUs).toBeCloseTo(300, 3);
  });

  test("take the first measurements at their word, and later ones slowly", () => {
    const measured = new DeploymentRates();
    measured.observeLoad(1, 10_000, 9_000);
    measured.observePrompt(4_000, 2_000);
    measured.observeCall(300);
    expect([measured.prefillTokensPerS, measured.tokensPerByte, measured.callMs]).toEqual([9_000, 0.5, 300]);
    for (let i = 0; i < 100; i++) measured.observeCall(300);
    measured.observeCall(10_000);
    expect(measured.callMs).toBeLessThan(1_000);
  });

  test("learn a bias that all replicas have in common", () => {
    const measured = new DeploymentRates();
    for (let i = 0; i < 200; i++) measured.observeTtft(100, 205);
    expect(measured.bias).toBeCloseTo(2, 2);
    expect(measured.observeTtft(100, 205)).toBeCloseTo(1, 2);
  });
});
