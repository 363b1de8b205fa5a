import { createServer } from "node:net";
import { sleep, systemClock } from "#kernel/clock.ts";
import { runService } from "#kernel/run-service.ts";
import { defineSettings, setting } from "#kernel/settings.ts";

/** A service for run-service.test.ts; `--mode` says how it behaves. */
await runService({
  name: "fixture",
  settings: defineSettings({
    mode: setting.choice({
      env: "HELIXMESH_FIXTURE_MODE",
      flag: "mode",
      choices: ["good", "slow", "refuse", "reject", "stuck"],
      default: "good",
      doc: "How the fixture behaves.",
    }),
  }),
  async start({ mode }, { logger, metrics }) {
    if (mode === "refuse") throw new Error("port 1 is in use");
    const alive = createServer().listen(0, "127.0.0.1");
    if (mode === "reject") setImmediate(() => void Promise.reject(new Error("forgotten promise")));
    return {
      url: "http://127.0.0.1:1",
      adminUrl: "http://127.0.0.1:2",
      async drain() {
        logger.info("drain began", { metrics: (await metrics.text()).length > 0 });
        if (mode === "stuck") throw new Error("cannot drain");
        if (mode === "slow") await sleep(systemClock, 600_000);
        alive.close();
      },
    };
  },
});
