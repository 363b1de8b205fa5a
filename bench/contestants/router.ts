import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createApiKey } from "#kernel/api-key.ts";
import { routerNodeFlags } from "#kernel/node-flags.ts";
import type { Backends } from "../bed/backends.ts";
import { ourName } from "../report.ts";
import { type Contestant, runFolder, startProgram } from "./contestant.ts";

/** The router as it is deployed, with everything on; limits on calls are out of the way. */
export async function startRouter(
  backends: Backends,
  agents: number,
  flags: readonly string[] = [],
): Promise<Contestant> {
  const folder = runFolder("router");
  const { port, key } = await backends.feed(agents);
  const keyFile = join(folder, "key");
  writeFileSync(keyFile, createApiKey().text);
  const script = join(import.meta.dirname, "../../router/main.ts");
  const own = [
    "--port=0",
    "--admin-port=0",
    `--control-url=http://127.0.0.1:${port}`,
    `--key-file=${keyFile}`,
    `--state-dir=${join(folder, "state")}`,
    "--max-calls=100000",
    "--max-calls-per-key=100000",
  ];
  const program = startProgram(process.execPath, [...routerNodeFlags, script, ...own, ...flags], folder, { ipc: true });
  const [ready] = (await Promise.race([
    once(program.child, "message"),
    once(program.child, "exit").then(() => {
      throw new Error(`The router did not start; its words are in ${join(folder, "log")}.`);
    }),
  ])) as [{ readonly url: string; readonly adminUrl: string }];
  try {
    await linked(ready.adminUrl, agents);
  } catch (error) {
    await program.stop();
    throw error;
  }
  const routerPort = Number(new URL(ready.url).port);
  return { name: ourName, grpcPort: routerPort, openAiPort: routerPort, key, pid: program.pid, stop: program.stop };
}

/** Waits until the router has its links: until then it would hold calls back. */
async function linked(adminUrl: string, agents: number): Promise<void> {
  let links = 0;
  for (let attempt = 0; attempt < 300; attempt++) {
    const metrics = await (await fetch(`${adminUrl}/metrics`)).text();
    links = Number(/router_links_up(?:\{[^}]*\})? (\d+)/m.exec(metrics)?.[1] ?? 0);
    if (links >= agents) return;
    await sleep(100);
  }
  throw new Error(`The router has ${links} of ${agents} links after 30 s.`);
}
