import { expect, test } from "vitest";
import { nearestName } from "#kernel/nearest-name.ts";

const names = ["nodes", "engine", "router-port", "control-port"];

test.each([
  ["nodse", "nodes"],
  ["egnine", "engine"],
  ["routerport", "router-port"],
  ["control-prot", "control-port"],
  ["zzzzzz", undefined],
])("the name nearest to %s is %s", (name, nearest) => {
  expect(nearestName(name, names)).toBe(nearest);
});
