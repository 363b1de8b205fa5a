import type { ServiceImpl } from "@connectrpc/connect";
import type { DeploymentService } from "#gen/helixmesh/control/v1/control_pb.ts";
import { checkDeployment, checkDeploymentName } from "../deployments/check-deployment.ts";
import { deleteDeployment, getDeployment, listDeployments, putDeployment } from "../deployments/deployments.ts";
import type { Sql } from "../store/database.ts";
import { checkPresent } from "../checks/field.ts";
import { cutPage, readPage } from "../checks/page.ts";

export function deploymentService(sql: Sql): ServiceImpl<typeof DeploymentService> {
  return {
    async putDeployment(request) {
      const wanted = checkDeployment(checkPresent("deployment", request.deployment));
      return { deployment: await putDeployment(sql, wanted) };
    },

    async getDeployment(request) {
      return { deployment: await getDeployment(sql, checkDeploymentName("name", request.name)) };
    },

    async listDeployments(request) {
      const page = readPage(request);
      const { rows, nextPageToken } = cutPage(await listDeployments(sql, page), page);
      return { deployments: rows, nextPageToken };
    },

    async deleteDeployment(request) {
      await deleteDeployment(sql, checkDeploymentName("name", request.name));
      return {};
    },
  };
}
