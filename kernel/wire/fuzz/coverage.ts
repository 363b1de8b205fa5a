import { type Profiler, Session } from "node:inspector";

/** The most characters that a script of interest has. */
const longestScript = 65_536;

/** Which characters of our sources have run, from V8's own block coverage. */
export class Coverage {
  readonly #session = new Session();
  readonly #isOfInterest: (url: string) => boolean;
  readonly #scripts = new Map<string, Script>();
  readonly #now = new Uint8Array(longestScript);
  #characters = 0;

  /** Before the code of interest is loaded, or its functions are counted only as wholes. */
  constructor(isOfInterest: (url: string) => boolean) {
    this.#isOfInterest = isOfInterest;
    this.#session.connect();
    this.#session.post("Profiler.enable");
    this.#session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true });
  }

  /** That have run so far. */
  get characters(): number {
    return this.#characters;
  }

  /** How many ran for the first time since the last call. Takes milliseconds: ask after many executions, not each. */
  take(): number {
    const fresh = this.#look(true);
    this.#characters += fresh;
    return fresh;
  }

  /** The same, and they count as never run. */
  peek(): number {
    return this.#look(false);
  }

  #look(keep: boolean): number {
    let fresh = 0;
    // Within the thread the answer comes before `post` returns.
    this.#session.post("Profiler.takePreciseCoverage", (error, answer) => {
      if (error) throw error;
      for (const script of answer.result) if (this.#isOfInterest(script.url)) fresh += this.#fresh(script, keep);
    });
    return fresh;
  }

  /** As if nothing had run. */
  forget(): void {
    this.peek();
    this.#scripts.clear();
    this.#characters = 0;
  }

  stop(): void {
    this.#session.disconnect();
  }

  /** Ranges come outer before inner, so that what is painted last holds. */
  #fresh({ url, functions }: Profiler.ScriptCoverage, keep: boolean): number {
    const ways = functions.map(wayThrough);
    const script = this.#script(url);
    if (ways.every((way) => script.known.has(way))) return 0;
    const now = this.#now.fill(0);
    for (const { ranges } of functions) {
      for (const { startOffset, endOffset, count } of ranges) now.fill(count > 0 ? 1 : 0, startOffset, endOffset);
    }
    let fresh = 0;
    for (let at = now.indexOf(1); at >= 0; at = now.indexOf(1, at + 1)) {
      if (script.ran[at] === 1) continue;
      if (keep) script.ran[at] = 1;
      fresh++;
    }
    if (keep || fresh === 0) for (const way of ways) script.known.add(way);
    return fresh;
  }

  #script(url: string): Script {
    let script = this.#scripts.get(url);
    if (!script) this.#scripts.set(url, (script = { ran: new Uint8Array(longestScript), known: new Set() }));
    return script;
  }
}

interface Script {
  /** By character. */
  readonly ran: Uint8Array;
  /** Ways through its functions in which nothing is new: most looks see no others. */
  readonly known: Set<string>;
}

function wayThrough({ ranges }: Profiler.FunctionCoverage): string {
  return ranges.map(({ startOffset, endOffset, count }) => `${startOffset}-${endOffset}${count > 0 ? "+" : ""}`).join();
}
