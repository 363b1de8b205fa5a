/**
 * Opens a link with grpcurl (github.com/fullstorydev/grpcurl), which knows it from reflection alone: any gRPC client can.
 *
 *     go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest
 *     node node-agent/link/grpcurl.ts [path of grpcurl]
 *
 * Says hello, starts one call, reads its deltas to the end and closes; then tries a wrong token. Prints what came and
 * exits with 1 when it is not what the contract says. `link.test.ts` does the same and more with @grpc/grpc-js.
 */
import { deepStrictEqual, match, ok, strictEqual } from "node:assert";
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { type MessageInitShape, create, fromBinary, fromJsonString, toJsonString } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import {
  type CallEnd,
  ConnectRequestSchema,
  type ConnectResponse,
  ConnectResponseSchema,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { TestNode, generate, linkToken } from "./test-node.ts";

type Fields = Exclude<MessageInitShape<typeof ConnectRequestSchema>, { $typeName: string }>;
type Frame = NonNullable<Fields["frame"]>;

const [program = "grpcurl"] = process.argv.slice(2);
const node = await new TestNode().start();
try {
  await openLink();
  await tryWrongToken();
  console.log("grpcurl opens the link");
} finally {
  await node.close();
}

async function openLink(): Promise<void> {
  const grpcurl = start(linkToken);
  const complaint = text(grpcurl.stderr);
  const exit = once(grpcurl, "exit");
  say(grpcurl, { case: "hello", value: { versions: [1], routerId: "grpcurl" } });
  let isReady = false;
  let tokens = 0;
  let story = "";
  let end: CallEnd | undefined;
  for await (const { frame } of frames(grpcurl)) {
    if (frame.case === "hello") {
      console.log(`hello of ${frame.value.nodeId}, version ${frame.value.version}`);
      deepStrictEqual([frame.value.nodeId, frame.value.version], ["node-1", 1]);
    }
    if (frame.case !== "hello" && frame.case !== "step") continue;
    if (!isReady && frame.value.replicas.some(({ state }) => state === ReplicaState.READY)) {
      isReady = true;
      say(grpcurl, { case: "calls", value: { starts: [{ ...generate(), number: 1, callId: "call-1", model: "m" }] } });
    }
    if (frame.case !== "step") continue;
    for (const delta of frame.value.deltas) {
      tokens += delta.completionTokens;
      story += delta.responses.map(textOf).join("");
      end = delta.end ?? end;
    }
    if (end && !grpcurl.stdin.writableEnded) grpcurl.stdin.end();
  }
  console.log(`${tokens} tokens: ${JSON.stringify(story)}`);
  strictEqual(tokens, 20);
  ok(story.length > 0);
  deepStrictEqual([end?.reason, end?.usage?.completionTokens], [Reason.UNSPECIFIED, 20]);
  deepStrictEqual([await complaint, await exit], ["", [0, null]]);
}

async function tryWrongToken(): Promise<void> {
  const grpcurl = start("wrong");
  const complaint = text(grpcurl.stderr);
  grpcurl.stdin.end();
  const [code] = (await once(grpcurl, "exit")) as [number | null];
  console.log(`with a wrong token:\n${await complaint}`);
  ok(code !== 0);
  match(await complaint, /Code: Unauthenticated/);
}

function start(token: string): ChildProcessWithoutNullStreams {
  const flags = ["-plaintext", "-H", `authorization: Bearer ${token}`, "-d", "@", "-max-time", "60"];
  return spawn(program, [...flags, `127.0.0.1:${node.port}`, "helixmesh.link.v1.LinkService/Connect"]);
}

function say({ stdin }: ChildProcessWithoutNullStreams, frame: Frame): void {
  stdin.write(`${toJsonString(ConnectRequestSchema, create(ConnectRequestSchema, { frame }))}\n`);
}

/** grpcurl prints each message as an object over several lines, of which only the last is a lone brace. */
async function* frames({ stdout }: ChildProcessWithoutNullStreams): AsyncGenerator<ConnectResponse> {
  let seen = "";
  for await (const chunk of stdout.setEncoding("utf8")) {
    const objects = (seen + String(chunk)).split(/(?<=^\})\n/m);
    seen = objects.pop() ?? "";
    for (const json of objects) yield fromJsonString(ConnectResponseSchema, json);
  }
}

function textOf(bytes: Uint8Array): string {
  const { event } = fromBinary(GenerateResponseSchema, bytes);
  return event.case === "delta" ? event.value.text : "";
}
