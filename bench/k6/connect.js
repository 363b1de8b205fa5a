// Connect door, as a browser calls it: a server-streaming call with JSON messages in Connect's envelopes
// (one flag byte, four length bytes, the message; https://connectrpc.com/docs/protocol#streaming-rpcs).
import { check } from "k6";
import http from "k6/http";
import { authorization, router } from "./options.js";

export { options } from "./options.js";

function envelope(text) {
  const bytes = new Uint8Array(5 + text.length);
  new DataView(bytes.buffer).setUint32(1, text.length);
  for (let index = 0; index < text.length; index++) bytes[5 + index] = text.charCodeAt(index);
  return bytes.buffer;
}

function messagesOf(body) {
  const bytes = new Uint8Array(body);
  const view = new DataView(body);
  const found = [];
  for (let at = 0; at + 5 <= bytes.length;) {
    const length = view.getUint32(at + 1);
    const text = String.fromCharCode.apply(null, bytes.subarray(at + 5, at + 5 + length));
    found.push({ end: (bytes[at] & 2) !== 0, message: JSON.parse(text) });
    at += 5 + length;
  }
  return found;
}

export default function () {
  const text = JSON.stringify({
    model: "pocket",
    maxOutputTokens: 64,
    chat: { messages: [{ role: "ROLE_USER", content: `Story ${__VU}-${__ITER}, please.` }] },
  });
  const response = http.post(`${router}/helixmesh.inference.v1.InferenceService/Generate`, envelope(text), {
    headers: { "content-type": "application/connect+json", "connect-protocol-version": "1", authorization },
    responseType: "binary",
  });
  const all = response.status === 200 ? messagesOf(response.body) : [];
  const last = all[all.length - 1];
  check(response, {
    "status is 200": (r) => r.status === 200,
    "starts with Started": () => all.length > 0 && all[0].message.started !== undefined,
    "ends without error": () => last !== undefined && last.end && last.message.error === undefined,
    "Finished came last": () => all.length > 1 && all[all.length - 2].message.finished !== undefined,
  });
}
