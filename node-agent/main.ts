#!/usr/bin/env node
import { runService } from "#kernel/run-service.ts";
import { startAgent } from "./agent.ts";
import { agentSettings } from "./settings.ts";

await runService({ name: "node-agent", settings: agentSettings, start: startAgent });
