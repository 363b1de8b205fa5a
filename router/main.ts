import { runService } from "#kernel/run-service.ts";
import { serveRouter } from "./serve.ts";
import { routerSettings } from "./settings.ts";
import { serveWorkers } from "./workers.ts";

await runService({
  name: "router",
  settings: routerSettings,
  start: (settings, parts) =>
    settings.workers > 1 && settings.worker === 0 ? serveWorkers(settings, parts) : serveRouter(settings, parts),
});
