import type { EngineSettings } from "./engine.ts";
import { BedProcess } from "./parent.ts";

export interface BackendPorts {
  /** Generate and LinkService, HTTP/2. */
  readonly grpc: number;
  /** Chat completions, HTTP/1.1. */
  readonly openAi: number;
}

/** What a router needs to find the engines. */
export interface RouterFeed {
  readonly port: number;
  /** Of role INFERENCE. */
  readonly key: string;
}

export interface EngineStats {
  /** Prompt blocks that an engine had evaluated before, of all it was given. */
  readonly hitBlocks: number;
  readonly blocks: number;
}

/** The engines of a test bed, all in one process. */
export class Backends {
  readonly ports: readonly BackendPorts[];
  readonly #process: BedProcess;

  private constructor(process: BedProcess, ports: readonly BackendPorts[]) {
    this.#process = process;
    this.ports = ports;
  }

  static async start(count: number, cores: string): Promise<Backends> {
    const process = new BedProcess("backend.ts", cores);
    return new Backends(process, await process.ask<BackendPorts[]>("open", { count }));
  }

  /** Forgets caches and counts too. */
  async configure(settings: EngineSettings): Promise<void> {
    await this.#process.ask("configure", settings);
  }

  stats(): Promise<EngineStats> {
    return this.#process.ask("stats");
  }

  /** For a router over the first `agents` engines. */
  feed(agents: number): Promise<RouterFeed> {
    return this.#process.ask("feed", { agents });
  }

  /** Calls of all routers that usage records came for. */
  recordedCalls(): Promise<number> {
    return this.#process.ask("recordedCalls");
  }

  stop(): Promise<void> {
    return this.#process.stop();
  }
}
