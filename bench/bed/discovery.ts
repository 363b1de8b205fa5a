import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { DiscoveryService, SnapshotSchema, WatchResponseSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { systemClock, sleep } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { startRpcServer } from "#kernel/rpc-server.ts";

/**
 * The control plane's word to routers, without the control plane: one snapshot that never changes, and usage records,
 * which are counted by call id. A ledger on the engines' core would measure PostgreSQL.
 */
export class BedDiscovery {
  readonly port: number;
  readonly #recorded: Set<string>;

  private constructor(port: number, recorded: Set<string>) {
    this.port = port;
    this.#recorded = recorded;
  }

  /** Different calls that usage records came for. */
  get recordedCalls(): number {
    return this.#recorded.size;
  }

  static async start(snapshot: MessageInitShape<typeof SnapshotSchema>): Promise<BedDiscovery> {
    const recorded = new Set<string>();
    const server = await startRpcServer({
      host: "127.0.0.1",
      port: 0,
      services: [DiscoveryService],
      routes: (router) =>
        router.service(DiscoveryService, {
          async *watch(_request, context) {
            const value = create(SnapshotSchema, snapshot);
            yield create(WatchResponseSchema, { update: { case: "snapshot", value } });
            const delta = create(WatchResponseSchema, { update: { case: "delta", value: { version: value.version } } });
            while (!context.signal.aborted) {
              await sleep(systemClock, 15_000, context.signal);
              yield delta;
            }
          },
          reportUsage: ({ records }) => {
            for (const record of records) recorded.add(record.callId);
            return {};
          },
        }),
      health: () => true,
      maxBodyBytes: 1 << 26,
      logger: silentLogger,
      metrics: new Metrics("bench"),
    });
    return new BedDiscovery(server.port, recorded);
  }
}
