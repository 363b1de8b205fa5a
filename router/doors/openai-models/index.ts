export { readModelId } from "./request.ts";
export { modelList, oneModel } from "./response.ts";
