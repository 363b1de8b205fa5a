import type { Rates } from "./predict.ts";

/** Share of a new observation in a moving average. */
const weight = 0.05;
/** Share that the step times seen so far keep with each new one: the last thousand or so count. */
const keep = 0.999;
/** Times shorter than this are noise of event loops and networks, in which no replica differs from another. */
const noiseMs = 5;
const mostBias = 32;

/** Measures one deployment from what its agents report and its calls show. A dozen numbers, whatever the traffic. */
export class DeploymentRates implements Rates {
  /** Until the first call ended: a guess that only matters when every place in every batch is taken. */
  callMs = 2_000;
  /** Until a replica measured one: a small model on a CPU; the first report replaces it. */
  prefillTokensPerS = 2_000;
  /** English text; the first calls correct it for other scripts and formats. */
  tokensPerByte = 0.25;
  bias = 1;
  #calls = 0;
  #loads = 0;
  #prompts = 0;
  /** Least squares of step time over batch size: weight, Σx, Σy, Σxx, Σxy. */
  #n = 0;
  #x = 0;
  #y = 0;
  #xx = 0;
  #xy = 0;

  /** Fitted to the step times seen at different batch sizes; 0 until two sizes were seen. */
  get stepSlopeUs(): number {
    const spread = this.#n * this.#xx - this.#x * this.#x;
    if (spread <= 1e-6 * this.#n * this.#n) return 0;
    const slope = (this.#n * this.#xy - this.#x * this.#y) / spread;
    // A sequence can cost no more than its share of a step, nor less than nothing; noise says so at times.
    return Math.max(0, Math.min(slope, this.#y / Math.max(1, this.#x)));
  }

  observeLoad(running: number, stepTimeUs: number, prefillTokensPerS: number): void {
    if (prefillTokensPerS > 0) {
      this.#loads += 1;
      this.prefillTokensPerS += (prefillTokensPerS - this.prefillTokensPerS) * Math.max(weight, 1 / this.#loads);
    }
    if (running === 0 || stepTimeUs === 0) return;
    this.#n = this.#n * keep + 1;
    this.#x = this.#x * keep + running;
    this.#y = this.#y * keep + stepTimeUs;
    this.#xx = this.#xx * keep + running * running;
    this.#xy = this.#xy * keep + running * stepTimeUs;
  }

  observePrompt(bytes: number, tokens: number): void {
    if (bytes === 0 || tokens === 0) return;
    this.#prompts += 1;
    this.tokensPerByte += (tokens / bytes - this.tokensPerByte) * Math.max(weight, 1 / this.#prompts);
  }

  /**
   * Takes one call's time to first token, milliseconds as predicted without any correction and as it was; returns how
   * its replica did against the deployment's average.
   */
  observeTtft(predictedMs: number, observedMs: number): number {
    const ratio = (observedMs + noiseMs) / (predictedMs + noiseMs);
    const relative = ratio / this.bias;
    this.bias = Math.min(mostBias, Math.max(1 / mostBias, this.bias * relative ** weight));
    return relative;
  }

  observeCall(ms: number): void {
    this.#calls += 1;
    this.callMs += (ms - this.callMs) * Math.max(weight, 1 / this.#calls);
  }
}
