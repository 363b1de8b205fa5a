import type { ServiceImpl } from "@connectrpc/connect";
import type { UsageFilter, UsageService } from "#gen/helixmesh/control/v1/control_pb.ts";
import type { Ledger } from "../ledger/ledger.ts";
import { checkCount, checkText, invalid } from "../checks/field.ts";

/** As many as there are; more would only repeat one. */
const mostDimensions = 5;

export function usageService(ledger: Ledger): ServiceImpl<typeof UsageService> {
  return {
    async summarizeUsage(request) {
      checkFilter(request.filter);
      checkCount("group_by", request.groupBy, mostDimensions);
      return { summaries: await ledger.summarizeUsage(request) };
    },

    async listUsage(request) {
      checkFilter(request.filter);
      return ledger.listUsage(request);
    },
  };
}

function checkFilter(filter: UsageFilter | undefined): void {
  if (!filter) return;
  const { fromMs, toMs } = filter;
  if (toMs !== 0n && toMs <= fromMs) {
    throw invalid("filter.to_ms", `is ${toMs}, not after filter.from_ms (${fromMs}); leave it 0 for now`);
  }
  checkText("filter.key_id", filter.keyId, { max: 128 });
  checkText("filter.project", filter.project, { max: 128 });
  checkText("filter.model", filter.model, { max: 128 });
}
