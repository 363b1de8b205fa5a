// OpenAI door: streamed chat completions. k6 reads a body whole, so its trend is the whole stream's time.
import { check } from "k6";
import http from "k6/http";
import { authorization, messages, router } from "./options.js";

export { options } from "./options.js";

export default function () {
  const body = JSON.stringify({
    model: "pocket",
    stream: true,
    max_tokens: 64,
    messages: messages(`Story ${__VU}-${__ITER}, please.`),
  });
  const headers = { "content-type": "application/json", authorization };
  const response = http.post(`${router}/v1/chat/completions`, body, { headers });
  check(response, {
    "status is 200": (r) => r.status === 200,
    "ends with [DONE]": (r) => r.body.endsWith("data: [DONE]\n\n"),
    "has a finish reason": (r) => /"finish_reason":"(length|stop)"/.test(r.body),
  });
}
