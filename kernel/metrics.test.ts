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
