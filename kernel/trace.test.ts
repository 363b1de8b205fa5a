import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import { expect, test } from "vitest";
import { startSpan, startTracing } from "#kernel/trace.ts";

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

test("a span passes its parent on and does nothing else while tracing is off", async () => {
  const tracing = await startTracing({ service: "test", endpoint: undefined });
  const span = startSpan("call", { kind: "server", traceparent: parent });
  expect(span.traceparent).toBe(parent);
  span.setAttributes(() => ({ a: 1 }));
  span.fail(new Error("x"));
  span.end();
  expect(startSpan("call", { kind: "server" }).traceparent).toBe("");
  await tracing.shutdown();
});

test.each([
  "",
  "00-0-0-0",
  `${parent}-extra`,
  `ff${parent.slice(2)}`,
  parent.replace(/b7ad6b7169203331/, "0".repeat(16)),
])("a malformed parent is ignored: %s", (traceparent) => {
  expect(startSpan("call", { kind: "server", traceparent }).traceparent).toBe("");
});

test("spans reach the collector with their parent when tracing is on", async () => {
  const received = Promise.withResolvers<Buffer>();
  const collector = createServer((request, response) => {
    buffer(request).then(received.resolve, received.reject);
    response.end();
  });
  collector.listen(0, "127.0.0.1");
  await once(collector, "listening");
  const { port } = collector.address() as AddressInfo;
  const tracing = await startTracing({ service: "test-service", endpoint: `http://127.0.0.1:${port}` });
  const span = startSpan("the-span", { kind: "server", traceparent: parent, attributes: () => ({ answer: 42 }) });
  expect(span.traceparent.slice(0, 35)).toBe(parent.slice(0, 35));
  expect(span.traceparent.slice(36, 52)).not.toBe("b7ad6b7169203331");
  span.fail(new Error("broken"));
  span.end();
  await tracing.shutdown();
  const body = (await received.promise).toString("latin1");
  for (const text of ["the-span", "test-service", "broken", "answer"]) expect(body).toContain(text);
  collector.close();
});
