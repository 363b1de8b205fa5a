import { readFile } from "node:fs/promises";
import { create } from "@bufbuild/protobuf";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import {
  type DesiredReplica,
  type HostInfo,
  type HostLoad,
  type ReplicaStatus,
  ReportUsageRequestSchema,
} from "#gen/helixmesh/node/v1/node_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import { type Clock, sleep } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { Random } from "#kernel/random.ts";
import { encodedMessages } from "#kernel/usage-record.ts";
import { type NodeClient, bearer, callTimeoutMs, createNodeClient, mustRegister } from "./control-client.ts";
import type { Identity, StateFile } from "./state-file.ts";
import { StatusPace } from "./status-pace.ts";

export interface ControlLinkOptions {
  readonly controlPlaneUrl: string;
  /** Read at each registration, so that a key may come or change while the agent runs. */
  readonly nodeKeyFile: string;
  readonly name: string;
  /** host:port at which routers reach the link service. */
  readonly linkAddress: string;
  readonly agentVersion: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Empty: unknown. */
  readonly zone: string;
  readonly engines: readonly EngineKind[];
  readonly hostInfo: () => Promise<HostInfo>;
  readonly hostLoad: () => Promise<HostLoad>;
  readonly replicas: () => ReplicaStatus[];
  readonly runningCalls: () => number;
  readonly onDesired: (desired: readonly DesiredReplica[]) => void;
  readonly stateFile: StateFile;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** Three signs of life that did not come: the watch is dead. */
const watchSilenceMs = 45_000;

/**
 * The node's side of NodeService (proto/helixmesh/node/v1). Registers, then keeps three loops going at once until the
 * control plane no longer knows the node: heartbeats, status reports, the watch of the desired state. Each loop
 * reconnects by itself with jittered back-off; none of them ever stops the replicas.
 */
export class ControlLink {
  readonly #options: ControlLinkOptions;
  readonly #client: NodeClient;
  readonly #status: StatusPace;
  readonly #stop = new AbortController();
  readonly #connected;
  readonly #failures;
  #draining = false;
  #running: Promise<void> | undefined;
  #registered = Promise.withResolvers<void>();

  constructor(options: ControlLinkOptions) {
    this.#options = options;
    this.#client = createNodeClient(options.controlPlaneUrl);
    this.#status = new StatusPace(options.clock);
    this.#connected = options.metrics.gauge("agent_control_plane_connected", "1 while the desired state is watched.");
    this.#failures = options.metrics.counter("agent_control_plane_failures_total", "Failed calls to it.", ["call"]);
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Resolves at the first registration of this process. */
  get registered(): Promise<void> {
    return this.#registered.promise;
  }

  statusChanged(): void {
    this.#status.changed();
  }

  /** For the usage shipper; rejects until the ledger has the records. */
  async reportUsage(records: readonly Uint8Array[]): Promise<void> {
    const { identity } = this.#options.stateFile.state;
    if (identity === undefined) throw new Error("the node is not registered yet");
    const { nodeId, nodeToken } = identity;
    const request = create(ReportUsageRequestSchema, { nodeId });
    request.$unknown = encodedMessages(ReportUsageRequestSchema.field.records.number, records);
    await this.#client.reportUsage(request, { ...bearer(nodeToken), timeoutMs: callTimeoutMs });
  }

  /** Tells the control plane, so that it offers the node's replicas no more. Bounded by one call's timeout. */
  async announceDrain(): Promise<void> {
    this.#draining = true;
    const { identity } = this.#options.stateFile.state;
    if (identity === undefined) return;
    try {
      await this.#reportStatus(identity, this.#stop.signal, 2_000);
    } catch (error) {
      this.#options.logger.warn("the control plane was not told of the drain", { error });
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const identity = await this.#register(signal);
      if (identity === undefined) return;
      // One loop that finds the node unknown ends all three.
      const session = new AbortController();
      const either = AbortSignal.any([signal, session.signal]);
      const loops = [this.#heartbeat(identity, either), this.#report(identity, either), this.#watch(identity, either)];
      await Promise.race(loops);
      session.abort();
      await Promise.all(loops);
    }
  }

  /** Undefined when stopped first. */
  async #register(signal: AbortSignal): Promise<Identity | undefined> {
    const options = this.#options;
    const result = await this.#retry("Register", signal, async () => {
      const key = (await readFile(options.nodeKeyFile, "utf8")).trim();
      const request = {
        name: options.name,
        linkAddress: options.linkAddress,
        agentVersion: options.agentVersion,
        host: await options.hostInfo(),
        labels: { ...options.labels },
        zone: options.zone,
        engines: [...options.engines],
      };
      const answer = await this.#client.register(request, { ...bearer(key), signal, timeoutMs: callTimeoutMs });
      const { nodeId, nodeToken, linkToken } = answer;
      return { nodeId, nodeToken, linkToken, heartbeatIntervalMs: Math.max(100, answer.heartbeatIntervalMs) };
    });
    if (result === undefined) return undefined;
    await options.stateFile.update({ identity: result });
    options.logger.info("registered", { nodeId: result.nodeId, name: options.name });
    this.#registered.resolve();
    return result;
  }

  async #heartbeat(identity: Identity, signal: AbortSignal): Promise<void> {
    const { clock, runningCalls } = this.#options;
    const { nodeId, nodeToken, heartbeatIntervalMs } = identity;
    while (!signal.aborted) {
      const sent = await this.#retry("Heartbeat", signal, async () => {
        const request = { nodeId, runningCalls: runningCalls() };
        await this.#client.heartbeat(request, { ...bearer(nodeToken), signal, timeoutMs: callTimeoutMs });
        return true;
      });
      if (sent === undefined) return;
      await sleep(clock, heartbeatIntervalMs, signal);
    }
  }

  async #report(identity: Identity, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const sent = await this.#retry("ReportStatus", signal, async () => {
        this.#status.reported();
        await this.#reportStatus(identity, signal, callTimeoutMs);
        return true;
      });
      if (sent === undefined) return;
      await this.#status.due(signal);
    }
  }

  async #reportStatus({ nodeId, nodeToken }: Identity, signal: AbortSignal, timeoutMs: number): Promise<void> {
    const { hostLoad, replicas } = this.#options;
    const request = { nodeId, host: await hostLoad(), replicas: replicas(), draining: this.#draining };
    await this.#client.reportStatus(request, { ...bearer(nodeToken), signal, timeoutMs });
  }

  async #watch({ nodeId, nodeToken }: Identity, signal: AbortSignal): Promise<void> {
    const { clock, onDesired, stateFile } = this.#options;
    while (!signal.aborted) {
      const ended = await this.#retry("WatchDesiredState", signal, async (succeeded) => {
        const silence = new AbortController();
        const arm = () => clock.setTimer(watchSilenceMs, () => silence.abort(), { unref: true });
        let timer = arm();
        try {
          const either = AbortSignal.any([signal, silence.signal]);
          for await (const { replicas } of this.#client.watchDesiredState(
            { nodeId },
            { ...bearer(nodeToken), signal: either },
          )) {
            timer.cancel();
            timer = arm();
            succeeded();
            this.#connected.set(1);
            onDesired(replicas);
            await stateFile.update({ desired: replicas });
          }
        } finally {
          timer.cancel();
          this.#connected.set(0);
        }
        throw new Error("the control plane ended the watch");
      });
      if (ended === undefined) return;
    }
  }

  /** Tries until it succeeds; undefined when stopped, or when the node must register again. */
  async #retry<T>(
    call: string,
    signal: AbortSignal,
    attempt: (succeeded: () => void) => Promise<T>,
  ): Promise<T | undefined> {
    const { clock, random, logger } = this.#options;
    const backoff = new Backoff({ initialMs: 200, maxMs: 10_000 }, random);
    while (!signal.aborted) {
      try {
        return await attempt(() => backoff.reset());
      } catch (error) {
        if (signal.aborted) return undefined;
        this.#failures.inc({ call });
        if (call !== "Register" && mustRegister(error)) {
          logger.warn("the control plane does not know this node; registering again", { call });
          await sleep(clock, backoff.nextMs(), signal);
          return undefined;
        }
        const delayMs = backoff.nextMs();
        const why =
          error instanceof Error && "code" in error && error.code === "ENOENT" ? error : MeshError.from(error);
        logger.warn("the control plane was not reached; serving goes on", {
          call,
          retryInMs: Math.round(delayMs),
          why: why.message,
          cause: why.cause instanceof Error ? why.cause.message : undefined,
        });
        await sleep(clock, delayMs, signal);
      }
    }
    return undefined;
  }
}
