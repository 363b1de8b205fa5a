import type { ServiceImpl } from "@connectrpc/connect";
import type { NodeAdminService } from "#gen/helixmesh/control/v1/control_pb.ts";
import { deleteNode, listNodes, setCordon } from "../nodes/nodes.ts";
import type { Sql } from "../store/database.ts";
import { checkText } from "../checks/field.ts";
import { cutPage, readPage } from "../checks/page.ts";

const nodeId = { min: 1, max: 128 };

export function nodeAdminService(sql: Sql): ServiceImpl<typeof NodeAdminService> {
  return {
    async listNodes(request) {
      const page = readPage(request);
      const { rows, nextPageToken } = cutPage(await listNodes(sql, page), page);
      return { nodes: rows, nextPageToken };
    },

    async setNodeCordon(request) {
      return { node: await setCordon(sql, checkText("node_id", request.nodeId, nodeId), request.cordoned) };
    },

    async deleteNode(request) {
      await deleteNode(sql, checkText("node_id", request.nodeId, nodeId));
      return {};
    },
  };
}
