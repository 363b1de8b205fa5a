export { noPrefixes } from "./prefix-source.ts";
export { LinkServer } from "./server.ts";
export type { CallRunner, CallSink, RunningCall } from "./session.ts";
