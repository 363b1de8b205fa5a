import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BackendPorts } from "../bed/backends.ts";
import { peerPath } from "../tools.ts";
import { type Contestant, freePort, listening, runFolder, startProgram } from "./contestant.ts";

/** One worker and a master key, no database, its logging to the console off. */
export async function startLitellm(backends: readonly BackendPorts[]): Promise<Contestant> {
  const folder = runFolder("litellm");
  const openAiPort = await freePort();
  // It refuses a key that could be guessed.
  const key = `sk-${randomBytes(32).toString("hex")}`;
  const models = backends.map(({ openAi }) => ({
    model_name: "bench",
    litellm_params: { model: "openai/bench", api_base: `http://127.0.0.1:${openAi}/v1`, api_key: "none" },
  }));
  const config = {
    model_list: models,
    router_settings: { routing_strategy: "least-busy" },
    general_settings: { master_key: key },
    litellm_settings: { telemetry: false },
  };
  // YAML is a superset of JSON.
  writeFileSync(join(folder, "config.yaml"), JSON.stringify(config));
  const flags = ["--config", join(folder, "config.yaml"), "--host", "127.0.0.1", "--port", String(openAiPort)];
  const env = { LITELLM_LOG: "ERROR", LITELLM_LOCAL_MODEL_COST_MAP: "True" };
  const program = startProgram(peerPath("litellm"), flags, folder, { env });
  await listening(openAiPort, program, folder, 180_000);
  return { name: "LiteLLM", openAiPort, key, pid: program.pid, stop: program.stop };
}
