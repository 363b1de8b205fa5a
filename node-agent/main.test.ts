import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { create } from "@bufbuild/protobuf";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { TestControlPlane } from "./control/test-control-plane.ts";
import { TestRouter, encode } from "./link/test-router.ts";

const main = fileURLToPath(new URL("./main.ts", import.meta.url));
let dir = "";
let agent: ChildProcess | undefined;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "helixmesh-agent-process-"));
  await writeFile(join(dir, "node-key"), "node-key");
});
afterEach(async () => {
  agent?.kill("SIGKILL");
  await rm(dir, { recursive: true });
});

test("finishes its calls after SIGTERM and exits with 0", async () => {
  const replica = { replicaId: "r1", model: "m", engine: EngineKind.SIM };
  const controlPlane = await new TestControlPlane([create(DesiredReplicaSchema, replica)]).start();
  const env = {
    ...process.env,
    HELIXMESH_NODE_NAME: "node-p",
    HELIXMESH_CONTROL_URL: `http://127.0.0.1:${controlPlane.port}`,
    HELIXMESH_NODE_KEY_FILE: join(dir, "node-key"),
    HELIXMESH_NODE_STATE_DIR: join(dir, "state"),
    HELIXMESH_NODE_PORT: "0",
    HELIXMESH_NODE_ADMIN_PORT: "0",
    HELIXMESH_LOG_LEVEL: "error",
  };
  agent = spawn(process.execPath, [main], { env, stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const exited = once(agent, "exit");
  const [ready] = await once(agent, "message");
  await controlPlane.until(() => controlPlane.statuses.at(-1)?.replicas[0]?.state === ReplicaState.READY);
  const router = new TestRouter(Number(new URL(ready.url).port), "link-token");
  await router.hello();
  const input = { case: "prompt" as const, value: "Hello there" };
  const request = encode(GenerateRequestSchema, { model: "m", input, maxOutputTokens: 30 });
  const call = router.start({ replicaId: "r1", method: Method.GENERATE, request });
  await call.responded;
  agent.kill("SIGTERM");
  expect((await call.ended).reason).toBe(Reason.UNSPECIFIED);
  expect(await exited).toEqual([0, null]);
  expect(controlPlane.usage).toMatchObject([{ usage: { completionTokens: 30 } }]);
  router.close();
  await controlPlane.close();
});
