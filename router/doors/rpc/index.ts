export { generateMethod } from "./generate-stream.ts";
export { callerKey, inferenceService } from "./inference-service.ts";
