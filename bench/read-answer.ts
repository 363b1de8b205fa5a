import { FinishReason, type GenerateResponse } from "#gen/helixmesh/inference/v1/inference_pb.ts";

/** What a client puts together from a stream, whatever its cut; log probabilities without their rounding. */
export function readAnswer(events: readonly GenerateResponse["event"][]) {
  const deltas = events.flatMap((event) => (event.case === "delta" ? [event.value] : []));
  const choices = [...new Set(deltas.map((delta) => delta.choiceIndex))]
    .sort((a, b) => a - b)
    .map((index) => {
      const own = deltas.filter((delta) => delta.choiceIndex === index);
      return {
        text: own.map((delta) => delta.text).join(""),
        tokenIds: own.flatMap((delta) => delta.tokenIds),
        logprobs: own.flatMap((delta) => delta.logprobs.map(({ tokenId, logprob }) => [tokenId, logprob.toFixed(1)])),
        toolCalls: own.flatMap((delta) =>
          delta.toolCalls.map(({ index: at, name, argumentsJson }) => [at, name, argumentsJson]),
        ),
        finishReasons: own.flatMap(({ finishReason }) =>
          finishReason === FinishReason.UNSPECIFIED ? [] : [finishReason],
        ),
      };
    });
  const finished = events.flatMap((event) => (event.case === "finished" ? [event.value] : []));
  return {
    choices,
    started: events.filter((event) => event.case === "started").length,
    promptTokens: finished.map(({ usage }) => usage?.promptTokens),
    completionTokens: finished.map(({ usage }) => usage?.completionTokens),
    unrepeatable: finished.map(({ unrepeatable }) => unrepeatable),
    last: events.at(-1)?.case,
  };
}
