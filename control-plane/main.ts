import { join } from "node:path";
import { runService } from "#kernel/run-service.ts";
import { bootstrap } from "./keys/bootstrap.ts";
import { serve } from "./serve.ts";
import { checkSettings, controlPlaneSettings } from "./settings.ts";
import { type DatabaseLocation, openDatabase } from "./store/database.ts";

/** The control plane: settings → database → migrations → bootstrap → services → drain. */
await runService({
  name: "control-plane",
  settings: controlPlaneSettings,
  async start(settings, parts) {
    const { logger, clock } = parts;
    const { databaseUrl, stateDir, bootstrapDir, databaseConnections: maxConnections } = settings;
    checkSettings(settings);
    const location: DatabaseLocation =
      databaseUrl === undefined
        ? { kind: "embedded", dir: join(stateDir, "postgres") }
        : { kind: "url", url: databaseUrl };
    const database = await openDatabase(location, { logger, clock, maxConnections });
    try {
      const { applied, version } = await database.migrate();
      logger.info("database ready", { kind: location.kind, applied, version });
      if (bootstrapDir !== undefined) await bootstrap({ sql: database.sql, clock, logger, dir: bootstrapDir });
      const service = await serve(database, settings, parts);
      return {
        ...service,
        async drain() {
          await service.drain();
          await database.close();
        },
      };
    } catch (error) {
      await database.close();
      throw error;
    }
  },
});
