import type { BackendPorts } from "../bed/backends.ts";
import { peerPath } from "../tools.ts";
import { type Contestant, freePort, listening, runFolder, startProgram } from "./contestant.ts";

/** Cache-aware, with an API key and its metrics on. */
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
    "openai",
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
  return { name: "SMG", openAiPort, key, pid: program.pid, stop: program.stop };
}
