import { decoderTargets } from "#kernel/wire/fuzz/decoder-targets.ts";
import type { FuzzTarget } from "#kernel/wire/fuzz/loop.ts";
import { sessionTargets } from "#kernel/wire/fuzz/session-targets.ts";

export const fuzzTargets: readonly FuzzTarget[] = [...decoderTargets, ...sessionTargets];
