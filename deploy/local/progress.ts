import type { Clock, Timer } from "#kernel/clock.ts";

const frames = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/** Tells what is happening: a line that spins on a terminal, a line for each step elsewhere. */
export class Progress {
  readonly #clock: Clock;
  readonly #write: (text: string) => void;
  readonly #terminal: boolean;
  #step = "";
  #frame = 0;
  #timer: Timer | undefined;

  constructor(parts: { readonly clock: Clock; readonly write: (text: string) => void; readonly terminal: boolean }) {
    this.#clock = parts.clock;
    this.#write = parts.write;
    this.#terminal = parts.terminal;
  }

  /** What goes on from now; the same text twice is said once. */
  step(text: string): void {
    if (text === this.#step) return;
    this.#step = text;
    if (!this.#terminal) this.#write(`${text}\n`);
    else if (this.#timer) this.#draw();
    else this.#spin();
  }

  /** A line that stays. */
  note(text: string): void {
    if (this.#terminal && this.#timer) this.#write(`\r\x1b[K${text}\n`);
    else this.#write(`${text}\n`);
  }

  /** Takes the spinning line away. */
  end(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    if (this.#terminal && this.#step !== "") this.#write("\r\x1b[K");
    this.#step = "";
  }

  #spin(): void {
    this.#draw();
    this.#timer = this.#clock.setTimer(100, () => this.#spin());
  }

  #draw(): void {
    this.#frame = (this.#frame + 1) % frames.length;
    this.#write(`\r\x1b[K${frames[this.#frame]} ${this.#step}`);
  }
}
