import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BackendPorts } from "../bed/backends.ts";
import { systemToolPath } from "../tools.ts";
import { type Contestant, freePort, listening, runFolder, startProgram } from "./contestant.ts";

/** One thread, HTTP/2 on both sides, every idle connection to an engine used by any client, one server an engine. */
export async function startHaproxy(backends: readonly BackendPorts[]): Promise<Contestant> {
  const folder = runFolder("haproxy");
  const [grpcPort, openAiPort] = [await freePort(), await freePort()];
  const servers = (pick: (ports: BackendPorts) => number, flags: string): string =>
    backends.map((ports, at) => `  server engine${at} 127.0.0.1:${pick(ports)} ${flags}`).join("\n");
  writeFileSync(
    join(folder, "haproxy.cfg"),
    `global
  nbthread 1
  maxconn 9000
  tune.h2.max-concurrent-streams 1000
defaults
  mode http
  timeout connect 10s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  http-reuse always
  balance roundrobin
  backlog 16384
frontend grpc
  bind 127.0.0.1:${grpcPort} proto h2
  default_backend grpc_engines
frontend openai
  bind 127.0.0.1:${openAiPort}
  default_backend openai_engines
backend grpc_engines
${servers(({ grpc }) => grpc, "proto h2")}
backend openai_engines
${servers(({ openAi }) => openAi, "")}
`,
  );
  const program = startProgram(systemToolPath("haproxy"), ["-db", "-f", join(folder, "haproxy.cfg")], folder);
  await listening(grpcPort, program, folder);
  return { name: "HAProxy", grpcPort, openAiPort, key: "none", pid: program.pid, stop: program.stop };
}
