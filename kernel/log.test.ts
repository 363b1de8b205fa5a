import { expect, test } from "vitest";
import { createLogger } from "#kernel/log.ts";

function capture(level: "debug" | "info" | "silent" = "debug") {
  const lines: Record<string, unknown>[] = [];
  const logger = createLogger({ service: "test", level, write: (line) => lines.push(JSON.parse(line)) });
  return { logger, lines };
}

test("writes a JSON line with level, time, service, message and fields", () => {
  const { logger, lines } = capture();
  logger.info("hello", { count: 3 });
  expect(lines).toEqual([
    {
      level: "info",
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
      service: "test",
      pid: process.pid,
      message: "hello",
      count: 3,
    },
  ]);
});

test("leaves out what is below its level", () => {
  const { logger, lines } = capture("info");
  logger.debug("quiet");
  logger.warn("loud");
  expect(lines.map((line) => line["message"])).toEqual(["loud"]);
  const silent = capture("silent");
  silent.logger.error("nothing");
  expect(silent.lines).toEqual([]);
});

test("redacts secrets and prompts at any depth, and nothing that only sounds like them", () => {
  const { logger, lines } = capture();
  logger.info("x", {
    key: "k1",
    apiKey: "k2",
    link_token: "k3",
    Authorization: "k4",
    nested: { list: [{ messages: ["k5"], prompt: "k6" }], secret: { deep: "k7" } },
    tokens: 12,
    keyId: "shown",
    promptTokens: 5,
  });
  expect(JSON.stringify(lines[0])).not.toMatch(/k[1-7]/);
  expect(lines[0]).toMatchObject({ key: "[redacted]", tokens: 12, keyId: "shown", promptTokens: 5 });
});

test("redacts the fields of a child too", () => {
  const { logger, lines } = capture();
  logger.child({ token: "t1", callId: "call_1" }).info("x");
  expect(lines[0]).toMatchObject({ token: "[redacted]", callId: "call_1" });
});

test("renders an error with its stack, code and causes", () => {
  const { logger, lines } = capture();
  const cause = Object.assign(new Error("inner"), { code: "EACCES", token: "t1" });
  logger.error("failed", { error: new TypeError("outer", { cause }) });
  expect(lines[0]).toMatchObject({
    error: {
      name: "TypeError",
      message: "outer",
      stack: expect.stringContaining("log.test.ts"),
      cause: { message: "inner", code: "EACCES", token: "[redacted]" },
    },
  });
});

test("survives cycles, big integers, bytes and long texts", () => {
  const { logger, lines } = capture();
  const cycle: { self?: unknown } = {};
  cycle.self = cycle;
  const error = new Error("cyclic");
  error.cause = error;
  logger.info("x", { cycle, big: 10n, bytes: new Uint8Array(3), long: "a".repeat(10_000), error });
  expect(lines[0]).toMatchObject({ big: "10", bytes: "[3 bytes]" });
  expect(String(lines[0]?.["long"]).length).toBeLessThan(9_000);
});

test("keeps a field whose name a line has already beside it", () => {
  const { logger, lines } = capture();
  logger.info("x", { service: "other", message: "m" });
  expect(lines[0]).toMatchObject({ service: "test", service_: "other", message: "x", message_: "m" });
});

test("writes a field once when a child and a line both name it, with the line's value", () => {
  const written: string[] = [];
  const logger = createLogger({ service: "test", level: "info", write: (line) => written.push(line) });
  logger.child({ node: "a", pid: 1 }).child({ node: "b" }).info("x", { node: "c" });
  expect(written[0]).toMatch(/^\{"level":"info",[^\n]*"pid_":1,"node":"c","message":"x"\}\n$/);
});

test("stays valid JSON whatever the texts and values are", () => {
  const { logger, lines } = capture();
  const fields = {
    'na"me\n': 'a "b" \\ \u0000 \u2028 é 😀 \ud800',
    nan: Number.NaN,
    small: -1e-7,
    yes: true,
    nothing: null,
    missing: undefined,
    run: () => 1,
    date: new Date(0),
  };
  logger.info('"\u0007', fields);
  const { level: _level, time: _time, service: _service, pid: _pid, ...rest } = lines[0] ?? {};
  const { run: _run, missing: _missing, ...kept } = fields;
  expect(rest).toEqual({ ...kept, nan: null, date: "1970-01-01T00:00:00.000Z", message: '"\u0007' });
});

test("lines of a kind say what info would say of each subject", () => {
  const { logger, lines } = capture("info");
  const write = logger.child({ node: "a", door: "b" }).lines<{ id: string; ms?: number }>("call", {
    id: ({ id }) => id,
    door: () => "grpc",
    ms: ({ ms }) => ms,
    token: ({ id }) => `secret of ${id}`,
  });
  write({ id: "one", ms: 1 });
  write({ id: "one", ms: 1 });
  write({ id: 'a "second" one' });
  write({ id: "é".repeat(100), ms: 2 });
  const common = { level: "info", node: "a", door: "grpc", token: "[redacted]", message: "call" };
  expect(lines).toMatchObject([
    { ...common, id: "one", ms: 1 },
    { ...common, id: "one", ms: 1 },
    { ...common, id: 'a "second" one' },
    { ...common, id: "é".repeat(100), ms: 2 },
  ]);
  expect(lines[2]).not.toHaveProperty("ms");
});

test("lines of a kind are left out below the level", () => {
  const { logger, lines } = capture("silent");
  logger.lines<number>("call", { number: (number) => number })(1);
  expect(lines).toEqual([]);
});
