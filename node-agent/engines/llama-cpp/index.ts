import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import type { CreateEngine } from "../engine.ts";
import { LlamaCppEngine } from "./llama-cpp-engine.ts";

/** Makes an engine that runs llama.cpp in a child process of its own. */
export const createLlamaCppEngine: CreateEngine = (options) =>
  new LlamaCppEngine(options, { logger: options.logger ?? silentLogger, clock: systemClock });
