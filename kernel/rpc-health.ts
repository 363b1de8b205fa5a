import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import type { DescService } from "@bufbuild/protobuf";
import { Health, HealthCheckResponse_ServingStatus as Status } from "#gen/grpc/health/v1/health_pb.ts";
import { sleep, systemClock } from "#kernel/clock.ts";
import { takeMessages } from "#kernel/rpc-request.ts";

/** How often a watcher looks; health is a function of the service, not an event. */
const watchIntervalMs = 1_000;

/**
 * grpc.health.v1: every service of the port has the health of the process, NOT_SERVING from the start of a drain. Open
 * to callers without a key (load balancers), and ends its watches on `drainSignal`.
 */
export function addHealth(
  router: ConnectRouter,
  options: { readonly services: readonly DescService[]; readonly health: () => boolean; drainSignal: AbortSignal },
): void {
  const { health, drainSignal } = options;
  const names = new Set(["", ...options.services.map((service) => service.typeName)]);
  const current = () => (health() && !drainSignal.aborted ? Status.SERVING : Status.NOT_SERVING);

  router.service(
    Health,
    {
      check({ service }) {
        if (!names.has(service)) throw new ConnectError(`no service ${service} on this port`, Code.NotFound);
        return { status: current() };
      },
      list() {
        const status = current();
        return { statuses: Object.fromEntries([...names].map((name) => [name, { status }])) };
      },
      async *watch({ service }, context) {
        const stop = AbortSignal.any([context.signal, drainSignal]);
        let last: Status | undefined;
        for (;;) {
          const status = names.has(service) ? current() : Status.SERVICE_UNKNOWN;
          if (status !== last) yield { status };
          last = status;
          if (stop.aborted) return;
          await sleep(systemClock, watchIntervalMs, stop);
        }
      },
    },
    { interceptors: [takeMessages], requestGate: () => {} },
  );
}
