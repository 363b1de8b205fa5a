import type { CpuInfo } from "node:os";

/** Utilisation over all processors between two readings of their time counters. */
export class CpuMeter {
  readonly #counters: () => CpuInfo[];
  #busy = 0;
  #total = 0;

  constructor(counters: () => CpuInfo[]) {
    this.#counters = counters;
    this.read();
  }

  /** 0 to 1 since the last reading; 0 when no time has passed. */
  read(): number {
    let busy = 0;
    let total = 0;
    for (const { times } of this.#counters()) {
      const working = times.user + times.nice + times.sys + times.irq;
      busy += working;
      total += working + times.idle;
    }
    const share = total > this.#total ? (busy - this.#busy) / (total - this.#total) : 0;
    this.#busy = busy;
    this.#total = total;
    return Math.min(1, Math.max(0, share));
  }
}
