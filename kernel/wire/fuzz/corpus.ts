import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Inputs of a target that are kept with the code, one a line in hex. */
export function readCorpus(target: string): Buffer[] {
  const lines = readFileSync(fileOf(target), "utf8").split("\n");
  return lines.filter((line) => line !== "").map((line) => Buffer.from(line, "hex"));
}

export function writeCorpus(target: string, inputs: readonly Buffer[]): void {
  const lines = inputs.filter(({ length }) => length > 0).map((input) => `${input.toString("hex")}\n`);
  writeFileSync(fileOf(target), lines.join(""));
}

function fileOf(target: string): string {
  return join(import.meta.dirname, "corpus", `${target}.txt`);
}
