import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type MessageInitShape, create, toJson } from "@bufbuild/protobuf";
import { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { type Place, here } from "./hosts.ts";

const main = join(import.meta.dirname, "../node-agent/main.ts");

export interface AgentProcessOptions {
  readonly nodeId: string;
  readonly replica: MessageInitShape<typeof DesiredReplicaSchema>;
  readonly flags?: readonly string[];
  readonly place?: Place;
}

/**
 * A node agent as a process that can be killed and started again on its port. It has no control plane: its state folder
 * says who it is and what it runs, as after a restart while the control plane is down.
 */
export class AgentProcess {
  readonly nodeId: string;
  readonly replicaId: string;
  readonly linkToken = "link-token";
  readonly #dir: string;
  readonly #flags: readonly string[];
  readonly #place: Place;
  #child: ChildProcess;
  #port = 0;

  private constructor(dir: string, replicaId: string, { nodeId, flags = [], place = here }: AgentProcessOptions) {
    this.#dir = dir;
    this.nodeId = nodeId;
    this.replicaId = replicaId;
    this.#flags = flags;
    this.#place = place;
    this.#child = this.#spawn();
  }

  static async start(options: AgentProcessOptions): Promise<AgentProcess> {
    const { nodeId, replica } = options;
    const dir = await mkdtemp(join(tmpdir(), "helixmesh-agent-"));
    const desired = create(DesiredReplicaSchema, replica);
    const identity = { nodeId, nodeToken: "none", linkToken: "link-token", heartbeatIntervalMs: 60_000 };
    const state = { version: 1, identity, desired: [toJson(DesiredReplicaSchema, desired)] };
    await mkdir(join(dir, "state"), { mode: 0o700 });
    await writeFile(join(dir, "state", "agent.json"), JSON.stringify(state), { mode: 0o600 });
    await writeFile(join(dir, "node-key"), "none");
    const agent = new AgentProcess(dir, desired.replicaId, options);
    await agent.#ready();
    return agent;
  }

  get linkAddress(): string {
    return `${this.#place.address}:${this.#port}`;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** As a process that dies: its sockets are closed. */
  kill(): void {
    this.#child.kill("SIGKILL");
  }

  /** As a host that vanishes: its sockets stay open, and nothing answers. */
  pause(): void {
    this.#child.kill("SIGSTOP");
  }

  /** The host is back. */
  unpause(): void {
    this.#child.kill("SIGCONT");
  }

  /** As a host that is taken out of service; resolves with its exit code. */
  async drain(): Promise<number | null> {
    const exited = once(this.#child, "exit") as Promise<[number | null]>;
    this.#child.kill("SIGTERM");
    return (await exited)[0];
  }

  /** Once it has been killed or drained: the same node comes back. */
  async restart(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, "exit");
    this.#child = this.#spawn();
    await this.#ready();
  }

  async close(): Promise<void> {
    this.kill();
    await rm(this.#dir, { recursive: true, force: true });
  }

  #spawn(): ChildProcess {
    const flags = {
      name: this.nodeId,
      host: this.#place.address,
      port: this.#port,
      "admin-port": 0,
      // Nobody listens there.
      "control-url": "http://127.0.0.1:9",
      "key-file": join(this.#dir, "node-key"),
      "state-dir": join(this.#dir, "state"),
    };
    const args = Object.entries(flags).map(([flag, value]) => `--${flag}=${value}`);
    const env = { ...process.env, HELIXMESH_LOG_LEVEL: "error" };
    const stdio = ["ignore", "inherit", "inherit", "ipc"] as const;
    const [program = "", ...rest] = [...this.#place.command, process.execPath, main, ...args, ...this.#flags];
    return spawn(program, rest, { env, stdio: [...stdio] });
  }

  async #ready(): Promise<void> {
    const [ready] = (await Promise.race([
      once(this.#child, "message"),
      once(this.#child, "exit").then(() => {
        throw new Error(`The agent ${this.nodeId} did not start.`);
      }),
    ])) as [{ readonly url: string }];
    this.#port = Number(new URL(ready.url).port);
  }
}
