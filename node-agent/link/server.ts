import { create, toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type AgentHello,
  AgentHelloSchema,
  LinkService,
  type ReplicaInfo,
  type RouterHello,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { type ReplicaLoad, ReplicaLoadSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { bearerToken, sameSecret, sha256 } from "#kernel/api-key.ts";
import type { Clock } from "#kernel/clock.ts";
import { errorRow } from "#kernel/error-table.ts";
import { grpcRefusal } from "#kernel/grpc-messages.ts";
import type { HotMethod } from "#kernel/hot-method.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { HeaderList, StreamListener, WireStream } from "#kernel/wire/index.ts";
import { CallFinder } from "./call-finder.ts";
import { HeldCalls, type HeldLimits } from "./held-calls.ts";
import { LinkStream } from "./link-stream.ts";
import type { PrefixChange, PrefixSource } from "./prefix-source.ts";
import { type CallRunner, type EncodedLoads, Session, type SessionLimits, type SessionPipe } from "./session.ts";

const protocolVersion = 1;

/** Of a drain's time, what its last calls have to end and to be taken elsewhere, milliseconds. */
const longestHandoverMs = 1_000;

export interface LinkServerOptions {
  /** Undefined until the control plane has admitted this node for the first time. */
  readonly identity: () => { readonly nodeId: string; readonly linkToken: string } | undefined;
  readonly replicas: () => ReplicaInfo[];
  readonly readLoads: () => ReplicaLoad[];
  readonly prefixes: PrefixSource;
  readonly runner: CallRunner;
  readonly limits: SessionLimits & { readonly links: number };
  /** For calls whose router is gone. */
  readonly held: HeldLimits;
  readonly heartbeatMs: number;
  /** How often loads are read when no step brings them; a changed one is sent to every router. */
  readonly loadIntervalMs: number;
  /** Of one message of a router. */
  readonly maxMessageBytes: number;
  /** How long a router may take to say hello. */
  readonly helloTimeoutMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/**
 * Serves `LinkService.Connect` (proto/helixmesh/link/v1): the contract is in the comment there. One `Session` per
 * router; this class opens and closes them and tells all of them what concerns all.
 */
export class LinkServer {
  readonly #options: LinkServerOptions;
  readonly #sessions = new Set<Session>();
  readonly #held: HeldCalls;
  readonly #finder: CallFinder;
  readonly #refused;
  readonly #links;
  readonly #overflows;
  readonly #taken;
  #loadTimerRuns = false;
  #draining: { readonly timeoutMs: number } | undefined;
  #emptied: (() => void) | undefined;

  constructor(options: LinkServerOptions) {
    this.#options = options;
    const { metrics } = options;
    this.#held = new HeldCalls({
      limits: options.held,
      onChange: (news) => {
        for (const session of this.#sessions) session.setHeld(news);
      },
      clock: options.clock,
      metrics,
    });
    this.#finder = new CallFinder({ held: this.#held, sessions: this.#sessions });
    this.#taken = metrics.counter(
      "link_calls_taken_total",
      "Calls whose client resumed them over another link while theirs was up.",
    );
    this.#links = metrics.gauge("link_sessions", "Routers connected to this node.");
    this.#refused = metrics.counter("link_refused_total", "Calls and links refused at the link.", ["reason"]);
    this.#overflows = metrics.counter("link_call_overflows_total", "Calls ended because their router read too slowly.");
  }

  /** For the port that routers connect to. */
  readonly hot: ReadonlyMap<string, HotMethod> = new Map([
    [
      `/${LinkService.typeName}/${LinkService.method.connect.name}`,
      (stream, headers) => this.#connect(stream, headers),
    ],
  ]);

  get sessionCount(): number {
    return this.#sessions.size;
  }

  replicaChanged(replica: ReplicaInfo): void {
    for (const session of this.#sessions) session.setReplica(replica);
  }

  /** What a replica's engine holds of prompts is different from before. */
  prefixesChanged(replicaId: string, change: PrefixChange): void {
    for (const session of this.#sessions) session.setPrefixes(replicaId, change);
  }

  /**
   * Announces the drain to every router; resolves when the last call has ended, at the latest after the timeout. Calls
   * that still run a little before that are ended as DRAINING, so that their routers can take them elsewhere in time.
   */
  async drain(timeoutMs: number): Promise<void> {
    this.#draining = { timeoutMs };
    this.#held.close();
    if (this.#sessions.size === 0) return;
    const emptied = new Promise<void>((resolve) => (this.#emptied = resolve));
    const handoverMs = Math.min(longestHandoverMs, timeoutMs / 2);
    const runMs = timeoutMs - handoverMs;
    for (const session of this.#sessions) session.drain(runMs);
    const cut = this.#options.clock.setTimer(runMs, () => {
      const error = new MeshError(Reason.DRAINING, "The node shut down before the call was finished; try another one.");
      for (const session of this.#sessions) session.cancelAll(error);
      // Whatever has not ended by now hangs on a router that does not read.
      const closeAll = (): void => {
        for (const session of this.#sessions) session.close(error);
        this.#emptied?.();
      };
      this.#options.clock.setTimer(handoverMs, closeAll);
    });
    await emptied;
    cut.cancel();
  }

  #connect(stream: WireStream, headers: HeaderList): StreamListener {
    const identity = this.#admit(headers.get("authorization"));
    if (identity instanceof MeshError) {
      stream.sendHeaders(grpcRefusal(identity, headers.get("x-request-id")), true);
      return { onData() {}, onEnd() {}, onClose() {} };
    }
    const { maxMessageBytes, helloTimeoutMs, clock, logger } = this.#options;
    const open = (hello: RouterHello, pipe: SessionPipe) => this.#open(identity.nodeId, hello, pipe);
    const onClosed = (session: Session) => this.#onClosed(session);
    return new LinkStream({ maxMessageBytes, helloTimeoutMs, clock, logger, open, onClosed }, stream, headers);
  }

  #open(
    nodeId: string,
    routerHello: RouterHello,
    pipe: SessionPipe,
  ): { readonly hello: AgentHello; readonly session: Session } {
    const { limits, heartbeatMs, clock, runner, replicas, prefixes } = this.#options;
    if (!routerHello.versions.includes(protocolVersion)) {
      const spoken = routerHello.versions.join(", ") || "none";
      throw new MeshError(Reason.CONFLICT, `The node speaks link version ${protocolVersion}, the router ${spoken}.`, {
        field: "hello.versions",
      });
    }
    if (this.#draining !== undefined) throw new MeshError(Reason.DRAINING, "The node is shutting down.");
    if (this.#sessions.size >= limits.links) {
      this.#refused.inc({ reason: "links" });
      throw new MeshError(Reason.OVERLOADED, `The node takes at most ${limits.links} routers.`, {
        limit: `${limits.links} links`,
      });
    }
    const { instanceId } = routerHello;
    if (instanceId !== "") this.#held.routerBack(instanceId);
    const session = new Session({
      pipe,
      prefixes,
      readLoads: () => this.#encodedLoads(),
      limits,
      heartbeatMs,
      clock,
      runner,
      held: this.#held,
      finder: this.#finder,
      instanceId,
      onRefused: (reason) => this.#refused.inc({ reason: errorRow(reason).openAiCode ?? "unknown" }),
      onCallOverflow: () => this.#overflows.inc(),
      onCallTaken: () => this.#taken.inc(),
    });
    this.#sessions.add(session);
    this.#links.set(this.#sessions.size);
    this.#options.logger.info("router connected", { routerId: routerHello.routerId.slice(0, 128) });
    this.#pumpLoads();
    const hello = create(AgentHelloSchema, {
      version: protocolVersion,
      nodeId,
      heartbeatIntervalMs: heartbeatMs,
      busyHeartbeatIntervalMs: Math.ceil(heartbeatMs / 2),
      replicas: replicas(),
      prefixBlockBytes: prefixes.blockBytes,
      heldCalls: this.#held.list,
    });
    return { hello, session };
  }

  #onClosed(session: Session): void {
    this.#sessions.delete(session);
    this.#links.set(this.#sessions.size);
    this.#options.logger.info("router disconnected");
    if (this.#sessions.size === 0) this.#emptied?.();
  }

  #admit(header: string | undefined): { readonly nodeId: string } | MeshError {
    const identity = this.#options.identity();
    if (identity === undefined) {
      const message = "The node has not been admitted by its control plane yet; try again.";
      return new MeshError(Reason.NO_READY_REPLICA, message);
    }
    const token = bearerToken(header ?? null);
    // Hashes have one length, so the comparison takes one time whatever was sent.
    if (token !== undefined && sameSecret(sha256(token), sha256(identity.linkToken))) return identity;
    this.#refused.inc({ reason: "invalid_api_key" });
    const message = "The link token is missing or wrong; discovery has the node's current one.";
    return new MeshError(Reason.INVALID_API_KEY, message);
  }

  #encodedLoads(): EncodedLoads {
    const loads = this.#options.readLoads();
    return new Map(loads.map((load) => [load.replicaId, toBinary(ReplicaLoadSchema, load)]));
  }

  /** Reads loads as long as somebody listens. */
  #pumpLoads(): void {
    if (this.#loadTimerRuns || this.#sessions.size === 0) return;
    this.#loadTimerRuns = true;
    const { clock, loadIntervalMs } = this.#options;
    clock.setTimer(
      loadIntervalMs,
      () => {
        this.#loadTimerRuns = false;
        const loads = this.#encodedLoads();
        for (const session of this.#sessions) session.setLoads(loads);
        this.#pumpLoads();
      },
      { unref: true },
    );
  }
}
