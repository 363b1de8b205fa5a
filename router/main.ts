import { runService } from "#kernel/run-service.ts";
import { serveRouter } from "./serve.ts";
import { routerSettings } from "./settings.ts";

await runService({ name: "router", settings: routerSettings, start: serveRouter });
