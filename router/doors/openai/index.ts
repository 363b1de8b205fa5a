export type { HttpRequest, HttpResponse, OpenAiDeps } from "./exchange.ts";
export { handleOpenAi } from "./handle.ts";
