export { type InferenceServiceOptions, inferenceService } from "./inference-service.ts";
