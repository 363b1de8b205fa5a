// Starts the mesh with `npm start` in an empty state folder and asks it for the capital of Japan through each door,
// with the clients that people use. Writes "PASSED FAILED" to the file named as the first argument.
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import OpenAI from "openai";
import {
  GenerateRequestSchema,
  GenerateResponseSchema,
  InferenceService,
  Role,
} from "../gen/helixmesh/inference/v1/inference_pb.ts";

const execute = promisify(execFile);
const root = join(import.meta.dirname, "..");
const folder = mkdtempSync(join(tmpdir(), "helixmesh-doors-"));
const state = join(folder, "state");
const openAiPython = "openai==3.52.0";
const question = "What is the capital of Japan?";
const answer = "The capital of Japan is Tokyo.";

let passed = 0;
let failed = 0;
async function expectThat(name, work) {
  try {
    await work();
    passed++;
    console.log(`ok    ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}: ${error.stack ?? error}${error.stderr ? `\n${error.stderr}` : ""}`);
  }
}
function same(actual, expected) {
  if (actual !== expected) throw new Error(`expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`);
}

const ports = ["--router-port", "0", "--control-port", "0", "--agent-port", "0", "--admin-port-base", "0"];
const mesh = spawn("npm", ["start", "--silent", "--", "--state", state, ...ports], {
  cwd: root,
  stdio: ["ignore", "pipe", "pipe"],
  detached: true,
});
const ended = new Promise((resolve) => mesh.once("exit", (code) => resolve(code)));
let output = "";
mesh.stdout.on("data", (chunk) => (output += chunk));
mesh.stderr.on("data", (chunk) => (output += chunk));

async function started() {
  for (let attempt = 0; attempt < 600 && mesh.exitCode === null; attempt++) {
    try {
      const run = JSON.parse(readFileSync(join(state, "run.json"), "utf8"));
      const key = readFileSync(run.keyFile, "utf8").trim();
      const client = new OpenAI({ baseURL: `${run.router.url}/v1`, apiKey: key, maxRetries: 0 });
      await client.chat.completions.create({
        model: "pocket",
        max_tokens: 1,
        messages: [{ role: "user", content: "Hi" }],
      });
      return { run, key };
    } catch {
      // Not there yet; the loop is bounded and the last error would only say "connection refused".
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
  throw new Error(`the mesh did not answer within two minutes:\n${output}`);
}

const python = `
import sys
from openai import OpenAI
client = OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2], max_retries=0)
ask = dict(model="pocket", temperature=0, messages=[{"role": "user", "content": sys.argv[3]}])
whole = client.chat.completions.create(**ask).choices[0].message.content
parts = [c.choices[0].delta.content or "" for c in client.chat.completions.create(stream=True, **ask) if c.choices]
print(whole)
print("".join(parts))
`;

async function askEverywhere({ run, key }) {
  const url = run.router.url;
  const messages = [{ role: "user", content: question }];
  const ask = { model: "pocket", temperature: 0, messages };
  const openAi = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });

  await expectThat("openai npm, whole", async () => {
    const completion = await openAi.chat.completions.create(ask);
    same(completion.choices[0].message.content, answer);
    same(completion.usage.total_tokens, completion.usage.prompt_tokens + completion.usage.completion_tokens);
  });
  await expectThat("openai npm, streamed", async () => {
    let text = "";
    for await (const chunk of await openAi.chat.completions.create({ ...ask, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? "";
    }
    same(text, answer);
  });
  await expectThat("openai npm, completions", async () => {
    const prompt = `<|im_start|>user\n${question}<|im_end|>\n<|im_start|>assistant\n`;
    const completion = await openAi.completions.create({ model: "pocket", prompt, temperature: 0, max_tokens: 32 });
    same(completion.choices[0].text, answer);
  });
  await expectThat("openai npm, embeddings", async () => {
    const { data } = await openAi.embeddings.create({ model: "pocket", input: [question, answer] });
    same(data.length, 2);
    const norm = Math.hypot(...data[0].embedding);
    if (Math.abs(norm - 1) > 0.001) throw new Error(`the vector's length is ${norm}`);
  });
  await expectThat("openai npm, a tool call whose arguments parse", async () => {
    const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
    const tools = [{ type: "function", function: { name: "get_weather", description: "Get the weather", parameters } }];
    const completion = await openAi.chat.completions.create({
      ...ask,
      messages: [{ role: "user", content: "What is the weather in Oslo?" }],
      tools,
    });
    same(completion.choices[0].finish_reason, "tool_calls");
    const call = completion.choices[0].message.tool_calls[0].function;
    same(`${call.name} ${JSON.parse(call.arguments).city}`, "get_weather Oslo");
  });
  await expectThat("openai npm, JSON by schema", async () => {
    const schema = {
      type: "object",
      properties: { name: { type: "string" }, age: { type: "integer" } },
      required: ["name", "age"],
      additionalProperties: false,
    };
    const completion = await openAi.chat.completions.create({
      ...ask,
      messages: [{ role: "user", content: "Give me JSON with the name Ada and the age 36." }],
      response_format: { type: "json_schema", json_schema: { name: "person", schema, strict: true } },
    });
    const { name, age } = JSON.parse(completion.choices[0].message.content);
    same(`${name} ${age}`, "Ada 36");
  });
  await expectThat("openai Python, whole and streamed", async () => {
    const venv = join(folder, "python");
    await execute("python3", ["-m", "venv", venv]);
    await execute(join(venv, "bin/python"), ["-m", "pip", "install", "-q", openAiPython]);
    const { stdout } = await execute(join(venv, "bin/python"), ["-c", python, url, key, question]);
    same(stdout, `${answer}\n${answer}\n`);
  });
  await expectThat("curl, streamed", async () => {
    const headers = ["-H", "content-type: application/json", "-H", `authorization: Bearer ${key}`];
    const body = JSON.stringify({ ...ask, stream: true });
    const { stdout } = await execute("curl", ["-sN", `${url}/v1/chat/completions`, ...headers, "-d", body]);
    if (!stdout.endsWith("data: [DONE]\n\n")) throw new Error(stdout);
    const chunks = stdout.split("\n\n").filter((event) => event.startsWith("data: {"));
    const data = chunks.map((event) => event.slice(6).split("\n", 1)[0]);
    same(data.map((one) => JSON.parse(one).choices[0]?.delta.content ?? "").join(""), answer);
  });

  const chat = { messages: [{ role: Role.USER, content: question }] };
  const request = { model: "pocket", input: { case: "chat", value: chat }, sampling: { temperature: 0 } };
  await expectThat("gRPC, grpc-js", async () => {
    const client = new Client(new URL(url).host, credentials.createInsecure());
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${key}`);
    const stream = client.makeServerStreamRequest(
      "/helixmesh.inference.v1.InferenceService/Generate",
      (message) => Buffer.from(toBinary(GenerateRequestSchema, message)),
      (bytes) => fromBinary(GenerateResponseSchema, bytes),
      create(GenerateRequestSchema, request),
      metadata,
    );
    same(await textOf(stream), answer);
    client.close();
  });
  const interceptors = [
    (next) => (call) => {
      call.header.set("authorization", `Bearer ${key}`);
      return next(call);
    },
  ];
  for (const [name, transport] of [
    ["Connect, connect-web with JSON", createConnectTransport({ baseUrl: url, interceptors })],
    ["Connect, connect-web with binary", createConnectTransport({ baseUrl: url, interceptors, useBinaryFormat: true })],
    ["gRPC-Web, connect-web", createGrpcWebTransport({ baseUrl: url, interceptors })],
  ]) {
    await expectThat(name, async () => {
      same(await textOf(createClient(InferenceService, transport).generate(request)), answer);
    });
  }
  await expectThat("an unknown model is a 404 that says so, a bad key a 401", async () => {
    const headers = { "content-type": "application/json", authorization: `Bearer ${key}` };
    const body = JSON.stringify({ ...ask, model: "nobody" });
    const unknown = await fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body });
    same(`${unknown.status} ${(await unknown.json()).error.code}`, "404 model_not_found");
    const refused = await fetch(`${url}/v1/models`, { headers: { authorization: "Bearer hm_wrong" } });
    same(`${refused.status} ${(await refused.json()).error.code}`, "401 invalid_api_key");
  });
  await expectThat("usage adds up in the CLI", async () => {
    const flags = ["helixmesh.mjs", "usage", "--by", "model", "--json", "--state", state];
    let summary;
    // Records are shipped in the background; the ledger has them within seconds.
    for (let attempt = 0; attempt < 50; attempt++) {
      const { stdout } = await execute("node", flags, { cwd: root });
      summary = JSON.parse(stdout);
      if (JSON.stringify(summary).includes("pocket")) return;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    throw new Error(`no usage of pocket: ${JSON.stringify(summary)}`);
  });
}

async function textOf(responses) {
  let text = "";
  for await (const { event } of responses) if (event.case === "delta") text += event.value.text;
  return text;
}

try {
  const running = await started();
  await askEverywhere(running);
  await expectThat("Ctrl-C drains and exits 0", async () => {
    process.kill(-mesh.pid, "SIGINT");
    same(await ended, 0);
  });
} catch (error) {
  failed++;
  console.log(`FAIL  the mesh starts and answers: ${error.stack}`);
} finally {
  if (mesh.exitCode === null && mesh.signalCode === null) process.kill(-mesh.pid, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
  if (process.argv[2]) writeFileSync(process.argv[2], `${passed} ${failed}\n`);
  console.log(`the mesh as a user starts it: ${passed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}
