import { create } from "@bufbuild/protobuf";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type ConnectRequest,
  type ConnectResponse,
  ConnectResponseSchema,
  LinkService,
  type ReplicaInfo,
  type RouterHello,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import type { ReplicaLoad } from "#gen/helixmesh/type/v1/type_pb.ts";
import { bearerToken, sameSecret, sha256 } from "#kernel/api-key.ts";
import { type Clock, sleep } from "#kernel/clock.ts";
import { errorRow } from "#kernel/error-table.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import { LoadChanges } from "./load-changes.ts";
import { type CallRunner, Session, type SessionLimits } from "./session.ts";

const protocolVersion = 1;

export interface LinkServerOptions {
  /** Undefined until the control plane has admitted this node for the first time. */
  readonly identity: () => { readonly nodeId: string; readonly linkToken: string } | undefined;
  readonly replicas: () => ReplicaInfo[];
  readonly readLoads: () => ReplicaLoad[];
  readonly runner: CallRunner;
  readonly limits: SessionLimits & { readonly links: number };
  readonly heartbeatMs: number;
  /** How often loads are read; a changed one is sent to every router. */
  readonly loadIntervalMs: number;
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
  readonly #loads = new LoadChanges();
  readonly #refused;
  readonly #links;
  readonly #overflows;
  #loadTimerRuns = false;
  #draining: { readonly timeoutMs: number } | undefined;
  #emptied: (() => void) | undefined;

  constructor(options: LinkServerOptions) {
    this.#options = options;
    const { metrics } = options;
    this.#links = metrics.gauge("link_sessions", "Routers connected to this node.");
    this.#refused = metrics.counter("link_refused_total", "Calls and links refused at the link.", ["reason"]);
    this.#overflows = metrics.counter("link_call_overflows_total", "Calls ended because their router read too slowly.");
  }

  readonly routes = (router: ConnectRouter): void => {
    router.rpc(LinkService.method.connect, (requests, context) => this.#connect(requests, context));
  };

  get sessionCount(): number {
    return this.#sessions.size;
  }

  replicaChanged(replica: ReplicaInfo): void {
    for (const session of this.#sessions) session.setReplica(replica);
  }

  /** Announces the drain to every router; resolves when the last call has ended, at the latest after the timeout. */
  async drain(timeoutMs: number): Promise<void> {
    this.#draining = { timeoutMs };
    if (this.#sessions.size === 0) return;
    const emptied = new Promise<void>((resolve) => (this.#emptied = resolve));
    for (const session of this.#sessions) session.drain(timeoutMs);
    const cut = this.#options.clock.setTimer(timeoutMs, () => {
      const error = new MeshError(Reason.DRAINING, "The node shut down before the call was finished; try another one.");
      for (const session of this.#sessions) session.cancelAll(error);
      // Whatever has not ended by now hangs on a router that does not read.
      const closeAll = (): void => {
        for (const session of this.#sessions) session.close(error);
        this.#emptied?.();
      };
      this.#options.clock.setTimer(1_000, closeAll);
    });
    await emptied;
    cut.cancel();
  }

  async *#connect(requests: AsyncIterable<ConnectRequest>, context: HandlerContext): AsyncGenerator<ConnectResponse> {
    const { nodeId } = this.#authenticate(context.requestHeader.get("authorization"));
    const incoming = requests[Symbol.asyncIterator]();
    const hello = await this.#readHello(incoming, context.signal);
    if (hello === undefined) return;
    const { limits, heartbeatMs, clock, runner, replicas, readLoads } = this.#options;
    if (this.#draining !== undefined) throw new MeshError(Reason.DRAINING, "The node is shutting down.");
    if (this.#sessions.size >= limits.links) {
      this.#refused.inc({ reason: "links" });
      throw new MeshError(Reason.OVERLOADED, `The node takes at most ${limits.links} routers.`, {
        limit: `${limits.links} links`,
      });
    }
    const logger = this.#options.logger.child({ routerId: hello.routerId.slice(0, 128) });
    const session = new Session({
      limits,
      heartbeatMs,
      clock,
      runner,
      onRefused: (reason) => this.#refused.inc({ reason: errorRow(reason).openAiCode ?? "unknown" }),
      onCallOverflow: () => this.#overflows.inc(),
    });
    this.#sessions.add(session);
    this.#links.set(this.#sessions.size);
    logger.info("router connected");
    const onAbort = (): void => session.close();
    context.signal.addEventListener("abort", onAbort, { once: true });
    void this.#receive(session, incoming, logger);
    for (const load of readLoads()) session.setLoad(load);
    this.#pumpLoads();
    try {
      const value = { version: protocolVersion, nodeId, heartbeatIntervalMs: heartbeatMs, replicas: replicas() };
      yield create(ConnectResponseSchema, { frame: { case: "hello", value } });
      yield* session.frames();
    } finally {
      context.signal.removeEventListener("abort", onAbort);
      session.close();
      this.#sessions.delete(session);
      this.#links.set(this.#sessions.size);
      logger.info("router disconnected");
      if (this.#sessions.size === 0) this.#emptied?.();
    }
  }

  #authenticate(header: string | null): { readonly nodeId: string } {
    const identity = this.#options.identity();
    if (identity === undefined) {
      throw new MeshError(
        Reason.NO_READY_REPLICA,
        "The node has not been admitted by its control plane yet; try again.",
      );
    }
    const token = bearerToken(header);
    // Hashes have one length, so the comparison takes one time whatever was sent.
    if (token !== undefined && sameSecret(sha256(token), sha256(identity.linkToken))) return identity;
    this.#refused.inc({ reason: "invalid_api_key" });
    throw new MeshError(
      Reason.INVALID_API_KEY,
      "The link token is missing or wrong; discovery has the node's current one.",
    );
  }

  /** Undefined when the router went away first. */
  async #readHello(incoming: AsyncIterator<ConnectRequest>, signal: AbortSignal): Promise<RouterHello | undefined> {
    const { clock, helloTimeoutMs } = this.#options;
    const settled = new AbortController();
    const first = await Promise.race([
      incoming.next(),
      sleep(clock, helloTimeoutMs, AbortSignal.any([signal, settled.signal])).then(() => "timeout" as const),
    ]);
    settled.abort();
    if (signal.aborted) return undefined;
    if (first === "timeout") {
      throw new MeshError(Reason.DEADLINE_EXCEEDED, `No RouterHello came within ${helloTimeoutMs} ms.`);
    }
    if (first.done) return undefined;
    const { frame } = first.value;
    if (frame.case !== "hello") {
      throw new MeshError(Reason.INVALID_REQUEST, "The first message of a link must be RouterHello.", {
        field: "hello",
      });
    }
    if (!frame.value.versions.includes(protocolVersion)) {
      throw new MeshError(
        Reason.CONFLICT,
        `The node speaks link version ${protocolVersion}, the router ${frame.value.versions.join(", ") || "none"}.`,
        { field: "hello.versions" },
      );
    }
    return frame.value;
  }

  async #receive(session: Session, incoming: AsyncIterator<ConnectRequest>, logger: Logger): Promise<void> {
    try {
      for (;;) {
        const next = await incoming.next();
        if (next.done) return session.close();
        const { frame } = next.value;
        if (frame.case === "calls") session.receive(frame.value);
        else session.close(new MeshError(Reason.INVALID_REQUEST, "After the hello only CallBatch may follow."));
      }
    } catch (error) {
      logger.debug("link broke", { error });
      session.close();
    }
  }

  /** Reads loads as long as somebody listens. */
  #pumpLoads(): void {
    if (this.#loadTimerRuns || this.#sessions.size === 0) return;
    this.#loadTimerRuns = true;
    const { clock, loadIntervalMs, readLoads } = this.#options;
    clock.setTimer(
      loadIntervalMs,
      () => {
        this.#loadTimerRuns = false;
        for (const load of this.#loads.changed(readLoads())) {
          for (const session of this.#sessions) session.setLoad(load);
        }
        this.#pumpLoads();
      },
      { unref: true },
    );
  }
}
