export { HotConnections } from "#kernel/http1/hot-connections.ts";
export type { HotPath } from "#kernel/http1/hot-path.ts";
export type { HotResponse } from "#kernel/http1/hot-response.ts";
export { refuseMalformed } from "#kernel/http1/malformed-request.ts";
export type { RequestHead } from "#kernel/http1/request-head.ts";
