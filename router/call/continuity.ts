import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { type GenerateRequest, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";

/** How a generation draws its tokens, which is what another replica has to repeat when it goes on with it. */
export type Drawing =
  /** The likeliest token each time: every replica goes on alike. */
  | "greedy"
  /** By chance, repeatably: replicas go on alike whose draws are a function of (seed, position). */
  | "seeded"
  /** By chance: any continuation is as good as any other. */
  | "random";

export function drawingOf({ sampling }: GenerateRequest): Drawing {
  if (sampling?.temperature === 0) return "greedy";
  return sampling?.seed === undefined ? "random" : "seeded";
}

/** Tag of GenerateResponse.finished: https://protobuf.dev/programming-guides/encoding/#structure, field 3, LEN. */
const finishedTag = 0x1a;

/** The same response, marked if it is Finished: its call has a seed, and calling again may give another text. */
export function unrepeatable(bytes: Uint8Array, start: number, end: number): Uint8Array {
  const response = bytes.subarray(start, end);
  if (response[0] !== finishedTag) return response;
  const message = fromBinary(GenerateResponseSchema, response);
  if (message.event.case === "finished") message.event.value.unrepeatable = true;
  return toBinary(GenerateResponseSchema, message);
}
