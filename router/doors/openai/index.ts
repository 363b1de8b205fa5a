export type { HttpRequest, HttpResponse, OpenAiDeps } from "./exchange.ts";
export { handleOpenAi, openAiHotPath } from "./handle.ts";
