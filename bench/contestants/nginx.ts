import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BackendPorts } from "../bed/backends.ts";
import { systemToolPath } from "../tools.ts";
import { type Contestant, freePort, listening, runFolder, startProgram } from "./contestant.ts";

/** One worker, connections to the engines kept open, nothing written to disk that need not be. */
export async function startNginx(backends: readonly BackendPorts[]): Promise<Contestant> {
  const folder = runFolder("nginx");
  mkdirSync(join(folder, "tmp"));
  const [grpcPort, openAiPort] = [await freePort(), await freePort()];
  const servers = (pick: (ports: BackendPorts) => number): string =>
    backends.map((ports) => `    server 127.0.0.1:${pick(ports)};`).join("\n");
  writeFileSync(
    join(folder, "nginx.conf"),
    `worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
user root;
pid ${folder}/pid;
error_log ${folder}/log warn;
events { worker_connections 19000; }
http {
  access_log off;
  client_body_temp_path ${folder}/tmp;
  proxy_temp_path ${folder}/tmp;
  fastcgi_temp_path ${folder}/tmp;
  uwsgi_temp_path ${folder}/tmp;
  scgi_temp_path ${folder}/tmp;
  client_max_body_size 64m;
  client_body_buffer_size 512k;
  keepalive_timeout 600s;
  keepalive_requests 100000000;
  upstream grpc_engines {
${servers(({ grpc }) => grpc)}
    keepalive 4096;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
  }
  upstream openai_engines {
${servers(({ openAi }) => openAi)}
    keepalive 4096;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
  }
  server {
    listen 127.0.0.1:${grpcPort} http2 backlog=16384;
    http2_max_concurrent_streams 1000;
    grpc_read_timeout 600s;
    location / { grpc_pass grpc://grpc_engines; }
  }
  server {
    listen 127.0.0.1:${openAiPort} backlog=16384;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
    proxy_read_timeout 600s;
    location / { proxy_pass http://openai_engines; }
  }
}
`,
  );
  const program = startProgram(systemToolPath("nginx"), ["-p", folder, "-c", join(folder, "nginx.conf")], folder);
  await listening(grpcPort, program, folder);
  return { name: "nginx", grpcPort, openAiPort, key: "none", pid: program.pid, stop: program.stop };
}
