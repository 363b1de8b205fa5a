// gRPC door: server-streaming Generate over k6/net/grpc, with the contract from the server's own reflection.
import { check } from "k6";
import grpc from "k6/net/grpc";
import { Counter, Trend } from "k6/metrics";
import { authorization, router } from "./options.js";

export { options } from "./options.js";

const firstToken = new Trend("ttft", true);
const deltas = new Counter("deltas");
const client = new grpc.Client();
let connected = false;

export default function () {
  if (!connected) {
    client.connect(router.replace(/^http:\/\//, ""), { plaintext: true, reflect: true, reflectMetadata: {} });
    connected = true;
  }
  return new Promise((resolve) => {
    const startedMs = Date.now();
    const stream = new grpc.Stream(client, "helixmesh.inference.v1.InferenceService/Generate", {
      metadata: { authorization },
    });
    let seen = 0;
    let finished = false;
    let failed = null;
    stream.on("data", (message) => {
      if (message.delta) {
        if (seen++ === 0) firstToken.add(Date.now() - startedMs);
        deltas.add(1);
      }
      if (message.finished) finished = true;
    });
    stream.on("error", (error) => {
      failed = error;
    });
    stream.on("end", () => {
      check(null, {
        "no error": () => failed === null,
        "tokens came": () => seen > 0,
        "Finished came": () => finished,
      });
      resolve();
    });
    stream.write({
      model: "pocket",
      maxOutputTokens: 64,
      chat: { messages: [{ role: "ROLE_USER", content: `Story ${__VU}-${__ITER}, please.` }] },
    });
    stream.end();
  });
}
