export { noPrefixes } from "./prefix-source.ts";
export { LinkServer } from "./server.ts";
export type { CallRunner } from "./session.ts";
export type { CallSink, RunningCall } from "./session-call.ts";
