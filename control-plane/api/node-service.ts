import type { ServiceImpl } from "@connectrpc/connect";
import type { NodeService } from "#gen/helixmesh/node/v1/node_pb.ts";
import type { Logger } from "#kernel/log.ts";
import type { NodeWatch } from "../discovery/node-watch.ts";
import type { Ledger } from "../ledger/ledger.ts";
import { checkRegistration } from "../nodes/check-node.ts";
import type { Leases } from "../nodes/leases.ts";
import { linkToken } from "../nodes/link-token.ts";
import { registerNode } from "../nodes/register.ts";
import { reportStatus } from "../nodes/report-status.ts";
import type { Sql } from "../store/database.ts";
import { callerKey, checkOwnNode } from "./caller.ts";

export interface NodeServiceOptions {
  readonly sql: Sql;
  readonly leases: Leases;
  readonly watch: NodeWatch;
  readonly ledger: Ledger;
  readonly linkSecret: string;
  readonly leaseMs: number;
  readonly heartbeatIntervalMs: number;
  readonly logger: Logger;
}

export function nodeService(options: NodeServiceOptions): ServiceImpl<typeof NodeService> {
  const { sql, leases, watch, ledger, linkSecret, leaseMs, heartbeatIntervalMs, logger } = options;
  return {
    async register(request) {
      checkRegistration(request);
      const { nodeId, nodeToken } = await registerNode(sql, request, leaseMs);
      logger.info("node registered", { node: request.name, nodeId, linkAddress: request.linkAddress });
      return { nodeId, nodeToken, linkToken: linkToken(linkSecret, nodeId), heartbeatIntervalMs, leaseMs };
    },

    async heartbeat(request, context) {
      checkOwnNode(context.values.get(callerKey), request.nodeId);
      return { leaseExpiresAtMs: BigInt(await leases.renew(request.nodeId, request.runningCalls)) };
    },

    async reportStatus(request, context) {
      checkOwnNode(context.values.get(callerKey), request.nodeId);
      await reportStatus(sql, request);
      return {};
    },

    watchDesiredState(request, context) {
      checkOwnNode(context.values.get(callerKey), request.nodeId);
      return watch.watch(request.nodeId, context.signal);
    },

    async reportUsage(request, context) {
      checkOwnNode(context.values.get(callerKey), request.nodeId);
      await ledger.recordUsage(request.records, { kind: "agent", nodeId: request.nodeId });
      return {};
    },
  };
}
