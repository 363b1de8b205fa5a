import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { routerNodeFlags } from "#kernel/node-flags.ts";

const text = (path: string): string => readFileSync(join(import.meta.dirname, "..", path), "utf8");

test("a router is started with the same flags of Node by every door", () => {
  expect(text("deploy/systemd/helixmesh-router.service")).toContain(
    `node ${routerNodeFlags.join(" ")} /opt/helixmesh/router/main.ts`,
  );
  expect(text("helixmesh.mjs")).toContain(`router: [${routerNodeFlags.map((flag) => `"${flag}"`).join(", ")}]`);
});
