import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type GenerateRequestSchema,
  type GenerateResponse,
  InferenceService,
  Role,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { EngineKind, Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { seededRandom } from "#kernel/random.ts";
import { type TestMesh, startTestMesh } from "../router/test-router.ts";
import { AgentProcess } from "./agent-process.ts";
import { readAnswer } from "./read-answer.ts";

type Request = Exclude<MessageInitShape<typeof GenerateRequestSchema>, { $typeName: string }>;

const chat = (content: string, tools: { name: string; parametersJson: string }[] = []): Request => ({
  model: "pocket",
  input: { case: "chat", value: { messages: [{ role: Role.USER, content }], tools } },
  sampling: { temperature: 0 },
});
const story: Request = { ...chat("Tell me a story about a fox."), maxOutputTokens: 60 };
const weather = [{ name: "get_weather", parametersJson: '{"type":"object","properties":{"city":{"type":"string"}}}' }];
const requests: { readonly name: string; readonly request: Request }[] = [
  { name: "greedy", request: story },
  { name: "seeded", request: { ...story, sampling: { temperature: 1, seed: 9n } } },
  { name: "three seeded choices", request: { ...story, sampling: { temperature: 1, seed: 3n }, choiceCount: 3 } },
  { name: "log probabilities", request: { ...story, logprobs: { top: 2 } } },
];
const subjects = [
  {
    name: "sim",
    replica: { engine: EngineKind.SIM, engineOptions: { time_scale: "0.3" } },
    requests,
  },
  {
    name: "llama.cpp",
    replica: { engine: EngineKind.LLAMA_CPP, source: "builtin:pocket", parallelSequences: 4 },
    requests: [
      ...requests,
      { name: "a tool call", request: chat("What is the weather in Oslo?", weather) },
      {
        name: "a JSON schema",
        request: {
          ...chat("Give me JSON with the name Ada and the age 36."),
          responseFormat: {
            format: {
              case: "jsonSchema" as const,
              value:
                '{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"]}',
            },
          },
        },
      },
    ],
  },
];

describe.each(subjects)("a stream whose node is killed, on $name", ({ replica, requests: cases }) => {
  let agents: AgentProcess[] = [];
  let mesh: TestMesh;
  let calls = 0;

  beforeAll(async () => {
    agents = await Promise.all(
      [1, 2, 3].map((n) =>
        AgentProcess.start({
          nodeId: `node-${n}`,
          replica: { ...replica, replicaId: `replica-${n}`, model: "pocket", deployment: "pocket-deployment" },
          flags: ["--drain-timeout=150ms"],
        }),
      ),
    );
    mesh = await startTestMesh({ agents: [], outside: agents });
    while (!(await fetch(`${mesh.adminUrl}/readyz`)).ok) await sleep(20);
  });
  afterAll(async () => {
    await mesh.close();
    await Promise.all(agents.map((agent) => agent.close()));
  });

  /** Reads the whole stream; `onResponse` hears of each response with the node that began the call. */
  async function ask(request: Request, onResponse: (count: number, nodeId: string) => void = () => {}) {
    const callId = `call-${++calls}`;
    const client = createClient(InferenceService, createGrpcTransport({ baseUrl: mesh.url }));
    const headers = { authorization: `Bearer ${mesh.key}`, "x-request-id": callId };
    const events: GenerateResponse["event"][] = [];
    let nodeId = "";
    for await (const { event } of client.generate(request, { headers })) {
      if (event.case === "started") nodeId = event.value.nodeId;
      events.push(event);
      onResponse(events.length, nodeId);
    }
    const settled = () => mesh.control.usage.find((record) => record.callId === callId);
    await mesh.control.until(() => settled() !== undefined);
    return { answer: readAnswer(events), responses: events.length, record: settled() };
  }

  /** One try each until it did break before the end: what a killed node sent before is still to be read. */
  async function askBroken(request: Request, at: number, take: (agent: AgentProcess) => Promise<unknown>) {
    for (let attempt = 0; ; attempt++) {
      let taken: Promise<unknown> | undefined;
      const breakAt = Math.max(1, at - attempt * 2);
      const asked = await ask(request, (count, nodeId) => {
        const agent = agents.find((one) => one.nodeId === nodeId);
        if (count === breakAt && agent) taken = take(agent).then(() => agent.restart());
      });
      await taken;
      if (asked.record?.attempts !== 1 || attempt === 20) return asked;
    }
  }

  const kill = (agent: AgentProcess): Promise<void> => {
    agent.kill();
    return Promise.resolve();
  };

  test.each(cases)("reads like an undisturbed one: $name", async ({ request }) => {
    const whole = await ask(request);
    expect(whole.answer).toMatchObject({ started: 1, last: "finished" });
    const random = seededRandom(11);
    for (const at of [2, 1 + Math.floor(random.next() * whole.responses * 0.7)]) {
      const broken = await askBroken(request, at, kill);
      expect(broken.answer).toEqual(whole.answer);
      expect(broken.record).toMatchObject({
        outcome: Outcome.COMPLETED,
        attempts: 2,
        usage: { completionTokens: whole.record?.usage?.completionTokens },
      });
    }
  });

  test("stops at a string of which one node said the beginning and another the end", async () => {
    const text = (await ask(story)).answer.choices[0]?.text ?? "";
    const from = Math.floor(text.length / 2);
    const stop = text.slice(from, from + 16);
    const request = { ...story, stop: [stop] };
    const whole = await ask(request);
    expect(whole.answer.choices[0]?.text).toBe(text.slice(0, text.indexOf(stop)));
    // The last responses before the end hold text back that may become the stop string.
    for (const back of [2, 3]) {
      const broken = await askBroken(request, whole.responses - back, kill);
      expect(broken.answer).toEqual(whole.answer);
      expect(broken.record).toMatchObject({ outcome: Outcome.COMPLETED, attempts: 2 });
    }
  });

  test("reads like an undisturbed one when its node is drained, which exits well", async () => {
    // Longer than the drain may take, also for an engine of thousands of tokens a second.
    const request = { ...story, maxOutputTokens: 1_500 };
    const whole = await ask(request);
    let exit: number | null | undefined;
    const broken = await askBroken(request, 3, async (agent) => (exit = await agent.drain()));
    expect(exit).toBe(0);
    expect(broken.answer).toEqual(whole.answer);
    expect(broken.record).toMatchObject({ outcome: Outcome.COMPLETED, attempts: 2 });
  });

  test("is one of many that all go on", async () => {
    const whole = await ask(story);
    let killed: AgentProcess | undefined;
    const streams = Array.from({ length: 24 }, () =>
      ask(story, (count, nodeId) => {
        if (count < 3 || killed) return;
        killed = agents.find((agent) => agent.nodeId === nodeId);
        killed?.kill();
      }),
    );
    const all = await Promise.all(streams);
    for (const { answer, record } of all) {
      expect(answer).toEqual(whole.answer);
      expect(record).toMatchObject({ outcome: Outcome.COMPLETED });
    }
    expect(all.filter(({ record }) => record?.attempts === 2).length).toBeGreaterThan(1);
    await killed?.restart();
    expect(await mesh.metrics()).not.toMatch(/router_moves_refused_total\{/);
  });

  test("goes on when its node's host vanishes, which does no harm when it is back", async () => {
    const whole = await ask(story);
    let vanished: AgentProcess | undefined;
    const vanish = (count: number, nodeId: string): void => {
      if (count < 3 || vanished) return;
      vanished = agents.find((agent) => agent.nodeId === nodeId);
      vanished?.pause();
    };
    const streams = Array.from({ length: 8 }, () => ask(story, vanish));
    for (const { answer, record } of await Promise.all(streams)) {
      expect(answer).toEqual(whole.answer);
      expect(record).toMatchObject({ outcome: Outcome.COMPLETED });
    }
    vanished?.unpause();
    await expect.poll(() => mesh.metrics(), { timeout: 30_000 }).toMatch(/router_links_up\{[^}]*\} 3\n/);
    const after = await Promise.all(Array.from({ length: 6 }, () => ask(story)));
    for (const { answer, record } of after) {
      expect(answer).toEqual(whole.answer);
      expect(record).toMatchObject({ outcome: Outcome.COMPLETED, attempts: 1 });
    }
  });

  test("goes on with any other text where it has no seed", async () => {
    const request = { ...story, sampling: { temperature: 1 }, maxOutputTokens: 60 };
    const { answer, record } = await askBroken(request, 2, kill);
    expect(answer).toMatchObject({ started: 1, last: "finished", unrepeatable: [false] });
    expect(answer.choices[0]?.tokenIds).toHaveLength(record?.usage?.completionTokens ?? -1);
    expect(record?.attempts).toBe(2);
  });
});
