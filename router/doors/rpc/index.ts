export { callerKey, inferenceService } from "./inference-service.ts";
