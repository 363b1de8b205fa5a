import { readFile, rename, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { fromJson, toJson } from "@bufbuild/protobuf";
import { type DesiredReplica, DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import type { Logger } from "#kernel/log.ts";
import { makeFolder } from "#kernel/make-folder.ts";

/** Who this node is, as the control plane said at its last registration. Holds secrets. */
export interface Identity {
  readonly nodeId: string;
  readonly nodeToken: string;
  readonly linkToken: string;
  readonly heartbeatIntervalMs: number;
}

export interface AgentState {
  readonly identity: Identity | undefined;
  /** The last desired state; undefined while none has ever come. */
  readonly desired: readonly DesiredReplica[] | undefined;
}

/**
 * What lets a restarted agent serve while its control plane is gone: one JSON file, mode 0600, replaced as a whole.
 * Saves follow one another and the newest state wins.
 */
export class StateFile {
  readonly #path: string;
  readonly #logger: Logger;
  #state: AgentState = { identity: undefined, desired: undefined };
  #saving: Promise<void> = Promise.resolve();

  constructor(path: string, logger: Logger) {
    this.#path = path;
    this.#logger = logger;
  }

  get state(): AgentState {
    return this.#state;
  }

  /** Reads the file if there is one. One that cannot be understood is left alone and counts as none. */
  async load(): Promise<AgentState> {
    await makeFolder(dirname(this.#path), 0o700);
    try {
      this.#state = parseState(await readFile(this.#path, "utf8"));
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) {
        this.#logger.warn("the state file cannot be used; the node registers anew", { path: this.#path, error });
      }
    }
    return this.#state;
  }

  update(change: Partial<AgentState>): Promise<void> {
    this.#state = { ...this.#state, ...change };
    this.#saving = this.#saving.then(() => this.#save());
    return this.#saving;
  }

  async #save(): Promise<void> {
    const { identity, desired } = this.#state;
    const json = { version: 1, identity, desired: desired?.map((replica) => toJson(DesiredReplicaSchema, replica)) };
    try {
      await writeFile(`${this.#path}.new`, JSON.stringify(json, undefined, 2), { mode: 0o600 });
      await rename(`${this.#path}.new`, this.#path);
    } catch (error) {
      // Serving goes on; only a restart without the control plane would miss it.
      this.#logger.error("cannot save the agent's state", { path: this.#path, error });
    }
  }
}

function parseState(text: string): AgentState {
  const json: unknown = JSON.parse(text);
  if (!isRecord(json) || json["version"] !== 1) throw new Error("it is not a version 1 state file");
  const { identity, desired } = json;
  return {
    identity: identity === undefined ? undefined : parseIdentity(identity),
    desired: Array.isArray(desired) ? desired.map((replica) => fromJson(DesiredReplicaSchema, replica)) : undefined,
  };
}

function parseIdentity(value: unknown): Identity {
  if (!isRecord(value)) throw new Error("its identity is no object");
  const { nodeId, nodeToken, linkToken, heartbeatIntervalMs } = value;
  if (
    typeof nodeId !== "string" ||
    typeof nodeToken !== "string" ||
    typeof linkToken !== "string" ||
    typeof heartbeatIntervalMs !== "number"
  ) {
    throw new Error("its identity is incomplete");
  }
  return { nodeId, nodeToken, linkToken, heartbeatIntervalMs };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
