import type { BackendPorts } from "../bed/backends.ts";
import { peerPath } from "../tools.ts";
import { type Contestant, freePort, listening, runFolder, startProgram } from "./contestant.ts";

/**
 * Every call names its provider in headers, since it keeps no configuration; several engines are a load-balance config.
 * Its streams end with HTTP 500 on Node 20 and 24: it changes headers of a fetch response, which are immutable.
 */
export async function startPortkey(backends: readonly BackendPorts[]): Promise<Contestant> {
  const folder = runFolder("portkey");
  const openAiPort = await freePort();
  const flags = [peerPath("portkey"), "--headless", `--port=${openAiPort}`];
  // Without it, Portkey refuses hosts of this machine.
  const env = { NODE_ENV: "production", TRUSTED_CUSTOM_HOSTS: "127.0.0.1,localhost" };
  const program = startProgram(process.execPath, flags, folder, { env });
  await listening(openAiPort, program, folder);
  const targets = backends.map(({ openAi }) => ({
    provider: "openai",
    api_key: "none",
    custom_host: `http://127.0.0.1:${openAi}/v1`,
    weight: 1,
  }));
  const headers: Record<string, string> =
    targets.length === 1
      ? { "x-portkey-provider": "openai", "x-portkey-custom-host": targets[0]?.custom_host ?? "" }
      : { "x-portkey-config": JSON.stringify({ strategy: { mode: "loadbalance" }, targets }) };
  return { name: "Portkey", openAiPort, key: "none", streams: false, headers, pid: program.pid, stop: program.stop };
}
