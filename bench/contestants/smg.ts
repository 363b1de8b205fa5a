import { setTimeout as sleep } from "node:timers/promises";
import type { BackendPorts } from "../bed/backends.ts";
import { peerPath } from "../tools.ts";
import { type Contestant, freePort, listening, runFolder, startProgram } from "./contestant.ts";

/**
 * Cache-aware, with an API key and its metrics on. The engines pass for vLLM over HTTP: with `--backend openai` one
 * engine gets every call, whatever the policy.
 */
export async function startSmg(backends: readonly BackendPorts[]): Promise<Contestant> {
  const folder = runFolder("smg");
  const openAiPort = await freePort();
  const key = "bench-key";
  const flags = [
    "launch",
    "--host",
    "127.0.0.1",
    "--port",
    String(openAiPort),
    "--backend",
    "vllm",
    "--policy",
    "cache_aware",
    "--api-key",
    key,
    "--prometheus-port",
    String(await freePort()),
    "--log-level",
    "warn",
    "--worker-urls",
    ...backends.map(({ openAi }) => `http://127.0.0.1:${openAi}`),
  ];
  const program = startProgram(peerPath("smg"), flags, folder);
  await listening(openAiPort, program, folder);
  await joined(openAiPort, key, backends.length);
  return { name: "SMG", openAiPort, key, pid: program.pid, stop: program.stop };
}

/** Workers join one after another; until all have, calls go to the first ones only. */
async function joined(port: number, key: string, count: number): Promise<void> {
  for (let attempt = 0; attempt < 300; attempt++) {
    const response = await fetch(`http://127.0.0.1:${port}/workers`, { headers: { authorization: `Bearer ${key}` } });
    const { workers = [] } = (await response.json()) as { readonly workers?: readonly { readonly status: string }[] };
    if (workers.filter(({ status }) => status === "ready").length === count) return;
    await sleep(100);
  }
  throw new Error(`SMG did not take all ${count} engines in 30 s.`);
}
