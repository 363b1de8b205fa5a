export { generateMethod } from "./generate-stream.ts";
export { inferenceService } from "./inference-service.ts";
