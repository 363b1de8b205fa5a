import { once } from "node:events";
import { writeSync } from "node:fs";
import { type Clock, systemClock } from "#kernel/clock.ts";
import { createLogger, type Logger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { type Random, systemRandom } from "#kernel/random.ts";
import { type Declaration, type SettingsOf, defineSettings, loadSettings, setting } from "#kernel/settings.ts";
import { watchStopSignals } from "#kernel/stop-signals.ts";
import { startTracing } from "#kernel/trace.ts";

/** Settings that every service has; a declaration with the same property name replaces one of them. */
export const commonSettings = defineSettings({
  logLevel: setting.choice({
    env: "HELIXMESH_LOG_LEVEL",
    flag: "log-level",
    choices: ["debug", "info", "warn", "error", "silent"],
    default: "info",
    doc: "Log lines below this level are not written.",
  }),
  otlpEndpoint: setting.text({
    env: "HELIXMESH_OTLP_ENDPOINT",
    flag: "otlp-endpoint",
    default: undefined,
    doc: "Base URL of an OTLP/HTTP collector, such as http://127.0.0.1:4318; traces are off without it.",
  }),
});

export interface ServiceParts {
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly clock: Clock;
  readonly random: Random;
  /** Ends the process with a log line and exit status 1; for a part that failed beyond repair. */
  readonly crash: (error: unknown) => void;
}

export interface RunningService {
  /** Where it serves, such as `http://127.0.0.1:8080`; told to the parent process. */
  readonly url?: string;
  readonly adminUrl?: string;
  /** Refuses new work, finishes what runs, closes everything. Bounded by its own setting. */
  drain(): Promise<void>;
}

export type ServiceSettings<D extends Declaration> = SettingsOf<D> & SettingsOf<typeof commonSettings>;

export interface ServiceOptions<D extends Declaration> {
  /** Such as `router`; names logs, metrics, traces and the command in `--help`. */
  readonly name: string;
  readonly settings: D;
  readonly start: (settings: ServiceSettings<D>, parts: ServiceParts) => Promise<RunningService>;
  /** Without the runtime and script; the process's own unless given. */
  readonly argv?: readonly string[];
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/**
 * The life of a service process. Exit status: 0 after a drain or `--help`, 2 for wrong settings, 1 when it could not
 * start, drain or go on, 130 when a second signal asked again (`stop-signals.ts`).
 */
export async function runService<D extends Declaration>(options: ServiceOptions<D>): Promise<void> {
  const { name, argv = process.argv.slice(2), env = process.env } = options;
  const declaration = defineSettings<Declaration>({ ...commonSettings, ...options.settings });
  const loaded = loadSettings(declaration, { argv, env, command: `helixmesh ${name}` });
  if (loaded.kind === "help") {
    process.stdout.write(loaded.text);
    return;
  }
  if (loaded.kind === "errors") {
    process.stderr.write(`helixmesh ${name}: ${loaded.errors.join(`\nhelixmesh ${name}: `)}\n`);
    process.exitCode = 2;
    return;
  }
  // Loaded from both declarations, merged just above.
  const settings = loaded.settings as ServiceSettings<D>;
  const common: SettingsOf<typeof commonSettings> = settings;
  const logger = createLogger({ service: name, level: common.logLevel });
  const metrics = new Metrics(name);
  metrics.observeProcess();

  function crash(error: unknown): void {
    logger.error("crashed", { error });
    process.exit(1);
  }
  process.on("unhandledRejection", crash);
  process.on("uncaughtException", crash);

  const stop = watchStopSignals(process, systemClock);
  const stopped = once(stop.requested, "abort");
  stop.requested.addEventListener("abort", () => logger.info("draining", { signal: stop.requested.reason }));
  stop.forced.addEventListener("abort", () => process.exit(130));

  const tracing = await startTracing({ service: `helixmesh-${name}`, endpoint: common.otlpEndpoint });
  try {
    const parts: ServiceParts = { logger, metrics, clock: systemClock, random: systemRandom, crash };
    const service = await options.start(settings, parts);
    logger.info("started", { url: service.url, adminUrl: service.adminUrl });
    announce({ type: "ready", url: service.url, adminUrl: service.adminUrl }, env, logger);
    await stopped;
    await service.drain();
    await tracing.shutdown();
  } catch (error) {
    logger.error(stop.requested.aborted ? "drain failed" : "start failed", { error });
    process.exit(1);
  }
  logger.info("stopped");
  process.exit(0);
}

/** One JSON line on the descriptor of HELIXMESH_READY_FD, and a message on the IPC channel, where there is one. */
function announce(
  message: { readonly type: "ready"; readonly url: string | undefined; readonly adminUrl: string | undefined },
  env: Readonly<Record<string, string | undefined>>,
  logger: Logger,
): void {
  const fd = Number(env["HELIXMESH_READY_FD"] || Number.NaN);
  if (Number.isInteger(fd)) {
    try {
      writeSync(fd, `${JSON.stringify(message)}\n`);
    } catch (error) {
      logger.warn("HELIXMESH_READY_FD cannot be written", { fd, error });
    }
  }
  process.send?.(message, undefined, undefined, (error: Error | null) => {
    if (error) logger.warn("the parent process did not take the ready message", { error });
  });
}
