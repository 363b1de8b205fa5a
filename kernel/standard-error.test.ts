import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";

/** What a process wrote to stderr that runs `code` with a logger `log`. */
function messages(code: string): string[] {
  const log = new URL("./log.ts", import.meta.url).href;
  const script = `import { createLogger } from ${JSON.stringify(log)}; const log = createLogger({ service: "t", level: "info" });${code}`;
  const { stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
  return stderr
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => String((JSON.parse(line) as Record<string, unknown>)["message"]));
}

test("a warning, with all before it, is out before the process dies by a signal", () => {
  expect(messages(`log.info("one"); log.warn("two"); process.kill(process.pid, "SIGKILL");`)).toEqual(["one", "two"]);
});

test("what waits when a process exits is written", () => {
  expect(messages(`log.info("one"); log.info("two"); process.exit(3);`)).toEqual(["one", "two"]);
});

test("many lines of one turn come whole and in order", () => {
  const lines = messages(`for (let i = 0; i < 5_000; i++) log.info(String(i), { text: "é".repeat(50) });`);
  expect(lines).toEqual(Array.from({ length: 5_000 }, (_, index) => String(index)));
});
