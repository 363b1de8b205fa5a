import type { Metrics } from "#kernel/metrics.ts";

export interface RecordingSettings {
  /** Bytes of one answer that are kept so that its call can move; 0 keeps nothing. */
  readonly maxMigrationBytes: number;
  /** The same for all answers together. */
  readonly maxMigrationTotalBytes: number;
}

/** What the recordings of all calls may take together. */
export class RecordingBudget {
  readonly settings: RecordingSettings;
  readonly #dropped;
  readonly #gauge;
  #bytes = 0;

  constructor(settings: RecordingSettings, metrics: Metrics) {
    this.settings = settings;
    this.#dropped = metrics.counter(
      "router_recordings_dropped_total",
      "Calls that can no longer move because their answer outgrew --max-migration-bytes (call) or all answers outgrew --max-migration-total-bytes (total).",
      ["limit"],
    );
    this.#gauge = metrics.gauge("router_recordings_bytes", "Memory held so that calls can move to another replica.");
  }

  /** False, and counted, when there is no room. */
  take(bytes: number): boolean {
    if (this.#bytes + bytes > this.settings.maxMigrationTotalBytes) {
      this.dropped("total");
      return false;
    }
    this.#bytes += bytes;
    this.#gauge.set(this.#bytes);
    return true;
  }

  give(bytes: number): void {
    this.#bytes -= bytes;
    this.#gauge.set(this.#bytes);
  }

  dropped(limit: "call" | "total"): void {
    this.#dropped.inc({ limit });
  }
}
