import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { quote } from "./summary.ts";

test("quoted words reach a shell's command as they are", () => {
  const words = ["plain", "two words", "it's", '{"a":"$(b)"}', "", "/tmp/x-1.key"];
  const printed = execFileSync("/bin/sh", ["-c", `printf '%s\\n' ${words.map(quote).join(" ")}`], { encoding: "utf8" });
  expect(printed).toBe(`${words.join("\n")}\n`);
});
