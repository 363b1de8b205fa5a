import type { ServiceImpl } from "@connectrpc/connect";
import type { DiscoveryService } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { MeshWatch } from "../discovery/mesh-watch.ts";
import type { Ledger } from "../ledger/ledger.ts";
import { checkText } from "../checks/field.ts";

const routerId = { min: 1, max: 128 };

export function discoveryService(options: {
  readonly watch: MeshWatch;
  readonly ledger: Ledger;
}): ServiceImpl<typeof DiscoveryService> {
  return {
    watch(request, context) {
      checkText("router_id", request.routerId, routerId);
      return options.watch.watch(context.signal);
    },

    async reportUsage(request) {
      checkText("router_id", request.routerId, routerId);
      await options.ledger.recordUsage(request.records, { kind: "router", routerId: request.routerId });
      return {};
    },
  };
}
