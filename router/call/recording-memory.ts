import type { Metrics } from "#kernel/metrics.ts";

export interface RecordingSettings {
  /** Bytes of one answer that are kept so that its call can move; 0 keeps nothing. */
  readonly maxMigrationBytes: number;
  /** The same for all answers together. */
  readonly maxMigrationTotalBytes: number;
}

/** Enough for the answer of a short call. */
export const pieceBytes = 512;
const piecesPerSlab = 512;

/** Pieces of many calls lie together, so that the tokens of one step touch few pages of memory. */
interface Slab {
  readonly bytes: Buffer;
  /** Where its free pieces begin. */
  readonly free: number[];
}

export interface Piece {
  readonly slab: Slab;
  /** Offset in the slab. */
  readonly at: number;
}

/**
 * The memory that the recordings of all calls share. A slab is made only when none has a free piece, so there are never
 * more of them than the total limit takes, and one.
 */
export class RecordingMemory {
  readonly settings: RecordingSettings;
  readonly #dropped;
  /** Slabs with free pieces. */
  readonly #open: Slab[] = [];
  #bytes = 0;

  constructor(settings: RecordingSettings, metrics: Metrics) {
    this.settings = settings;
    this.#dropped = metrics.counter(
      "router_recordings_dropped_total",
      "Calls that can no longer move because their answer outgrew --max-migration-bytes (call) or all answers outgrew --max-migration-total-bytes (total).",
      ["limit"],
    );
    const help = "Memory held so that calls can move to another replica.";
    metrics.follow("router_recordings_bytes", help, () => this.#bytes);
  }

  /** Undefined, and counted, when there is no room. */
  take(): Piece | undefined {
    if (this.#bytes + pieceBytes > this.settings.maxMigrationTotalBytes) {
      this.dropped("total");
      return undefined;
    }
    this.#bytes += pieceBytes;
    let slab = this.#open.at(-1);
    if (!slab) this.#open.push((slab = newSlab()));
    const at = slab.free.pop() as number;
    if (slab.free.length === 0) this.#open.pop();
    return { slab, at };
  }

  give(pieces: readonly Piece[]): void {
    this.#bytes -= pieces.length * pieceBytes;
    for (const { slab, at } of pieces) {
      if (slab.free.length === 0) this.#open.push(slab);
      slab.free.push(at);
      // One is kept for the next call.
      if (slab.free.length === piecesPerSlab && this.#open.length > 1) this.#open.splice(this.#open.indexOf(slab), 1);
    }
  }

  dropped(limit: "call" | "total"): void {
    this.#dropped.inc({ limit });
  }
}

function newSlab(): Slab {
  return {
    bytes: Buffer.allocUnsafeSlow(piecesPerSlab * pieceBytes),
    free: Array.from({ length: piecesPerSlab }, (_, index) => (piecesPerSlab - 1 - index) * pieceBytes),
  };
}
