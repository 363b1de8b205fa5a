import { expect, test } from "vitest";
import { Metrics } from "#kernel/metrics.ts";

test("prefix names and label every line with the service", async () => {
  const metrics = new Metrics("router");
  metrics.counter("calls_total", "Calls.", ["door"]).inc({ door: "grpc" });
  metrics.gauge("queue", "Waiting.").set(2);
  metrics.histogram("ttft_seconds", "Time.", ["model"], [0.1, 1]).observe({ model: "m" }, 0.5);
  const text = await metrics.text();
  expect(text).toContain('helixmesh_calls_total{door="grpc",service="router"} 1');
  expect(text).toContain('helixmesh_queue{service="router"} 2');
  expect(text).toMatch(
    /helixmesh_ttft_seconds_bucket\{le="0.1",(service="router",model="m"|model="m",service="router")\} 0/,
  );
  expect(metrics.contentType).toContain("text/plain");
});

test("give the same metric for the same name, and refuse it as another kind", () => {
  const metrics = new Metrics("router");
  expect(metrics.counter("a_total", "A.")).toBe(metrics.counter("a_total", "A."));
  expect(() => metrics.gauge("a_total", "A.")).toThrow("two kinds");
});

test("of two services in one process are apart", async () => {
  const router = new Metrics("router");
  const agent = new Metrics("agent");
  router.counter("a_total", "A.").inc();
  expect(await agent.text()).not.toContain("a_total");
});

test("add up for each set of labels, however often they are read", async () => {
  const metrics = new Metrics("router");
  const tokens = metrics.counter("tokens_total", "Tokens.", ["model", "kind"]);
  tokens.inc({ model: "m", kind: "prompt" }, 5);
  tokens.inc({ model: "n", kind: "prompt" });
  expect(await metrics.text()).toContain('helixmesh_tokens_total{model="m",kind="prompt",service="router"} 5');
  tokens.inc({ kind: "prompt", model: "m" }, 2);
  expect(await metrics.text()).toContain('helixmesh_tokens_total{model="m",kind="prompt",service="router"} 7');
  expect(await metrics.text()).toContain('helixmesh_tokens_total{model="n",kind="prompt",service="router"} 1');
});

test("read what they follow whenever they are asked", async () => {
  const metrics = new Metrics("router");
  let calls = 1;
  metrics.follow("calls", "Calls.", () => calls);
  expect(await metrics.text()).toContain('helixmesh_calls{service="router"} 1');
  calls = 2;
  expect(await metrics.text()).toContain('helixmesh_calls{service="router"} 2');
  expect(() => metrics.follow("calls", "Calls.", () => 0)).toThrow("twice");
});

test("show what has no labels before anything is counted", async () => {
  const metrics = new Metrics("router");
  metrics.counter("a_total", "A.");
  metrics.histogram("b_seconds", "B.", [], [1]);
  const text = await metrics.text();
  expect(text).toContain('helixmesh_a_total{service="router"} 0');
  expect(text).toContain('helixmesh_b_seconds_count{service="router"} 0');
});

test("put an observation into every bucket that it is not above", async () => {
  const metrics = new Metrics("router");
  const seconds = metrics.histogram("b_seconds", "B.", ["model"], [0.5, 1]);
  for (const value of [0.5, 0.7, 1, 2]) seconds.observe({ model: "m" }, value);
  const lines = (await metrics.text()).split("\n").filter((line) => line.startsWith("helixmesh_b_seconds"));
  expect(lines).toEqual([
    'helixmesh_b_seconds_bucket{le="0.5",model="m",service="router"} 1',
    'helixmesh_b_seconds_bucket{le="1",model="m",service="router"} 3',
    'helixmesh_b_seconds_bucket{le="+Inf",model="m",service="router"} 4',
    'helixmesh_b_seconds_sum{model="m",service="router"} 4.2',
    'helixmesh_b_seconds_count{model="m",service="router"} 4',
  ]);
});
