import { setTimeout as sleep } from "node:timers/promises";
import { join } from "node:path";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { ConnectError, type Transport, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import {
  type GenerateRequestSchema,
  type GenerateResponse,
  InferenceService,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { type TestMesh, startTestMesh } from "../router/test-router.ts";
import { AgentProcess } from "./agent-process.ts";
import { RouterProcess } from "./router-process.ts";

export type Request = Exclude<MessageInitShape<typeof GenerateRequestSchema>, { $typeName: string }>;

/** Agents as processes, one router of this process over them, and one as a process that streams are broken with. */
export interface BrokenBed {
  readonly agents: readonly AgentProcess[];
  /** Its own router is the one that takes streams up. */
  readonly mesh: TestMesh;
  readonly doomed: RouterProcess;
  close(): Promise<void>;
}

export interface BrokenBedOptions {
  readonly replica: Exclude<MessageInitShape<typeof DesiredReplicaSchema>, { $typeName: string }>;
  readonly nodes: number;
  readonly agentFlags?: readonly string[];
  /** Of the router that is a process. */
  readonly routerFlags?: readonly string[];
}

export async function startBrokenBed(options: BrokenBedOptions): Promise<BrokenBed> {
  const { replica, nodes, agentFlags = [], routerFlags: flags = [] } = options;
  const desired = { ...replica, model: "pocket", deployment: "pocket-deployment" };
  const agents = await Promise.all(
    Array.from({ length: nodes }, (_, index) =>
      AgentProcess.start({
        nodeId: `node-${index + 1}`,
        replica: { ...desired, replicaId: `replica-${index + 1}` },
        flags: agentFlags,
      }),
    ),
  );
  const mesh = await startTestMesh({ agents: [], outside: agents, flags: ["--resume-wait=2000"] });
  const keyFile = join(mesh.stateDir, "router-key");
  const doomed = await RouterProcess.start({ routerId: "doomed", controlUrl: mesh.control.url, keyFile, flags });
  while (!(await fetch(`${mesh.adminUrl}/readyz`)).ok) await sleep(20);
  return {
    agents,
    mesh,
    doomed,
    async close() {
      await doomed.close();
      await mesh.close();
      await Promise.all(agents.map((agent) => agent.close()));
    },
  };
}

/** Where to ask, and as whom; `signal` lets the client go away. */
export interface Asking {
  readonly url: string;
  readonly key: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  readonly transport?: Transport;
}

export interface GrpcAnswer {
  readonly events: readonly GenerateResponse["event"][];
  /** Undefined when all of it came. */
  readonly error: ConnectError | undefined;
  readonly whole: boolean;
}

/** Streams a generation; `onEvent` hears of each response and of how many there are now. */
export async function askGrpc(
  { url, key, headers, signal, transport = createGrpcTransport({ baseUrl: url }) }: Asking,
  request: Request,
  onEvent: (count: number, event: GenerateResponse["event"]) => void = () => {},
): Promise<GrpcAnswer> {
  const client = createClient(InferenceService, transport);
  const options = { headers: { authorization: `Bearer ${key}`, ...headers }, ...(signal && { signal }) };
  const events: GenerateResponse["event"][] = [];
  try {
    for await (const { event } of client.generate(request, options)) {
      events.push(event);
      onEvent(events.length, event);
    }
  } catch (error) {
    return { events, error: ConnectError.from(error), whole: false };
  }
  return { events, error: undefined, whole: true };
}

/** The metadata of a client that has `events` of a call. */
export function resumeHeaders(callId: string, events: readonly unknown[]): Record<string, string> {
  return { "x-helixmesh-resume": callId, "x-helixmesh-resume-after": String(events.length) };
}

export interface ServerEvent {
  readonly data: string;
  readonly id: string;
}

/** Streams from an OpenAI endpoint; a stream is whole once its `[DONE]` came. */
export async function askSse(
  { url, key, headers, signal }: Asking,
  { path, body }: { readonly path: string; readonly body: object },
  onEvent: (count: number) => void = () => {},
) {
  const events: ServerEvent[] = [];
  const decoder = new TextDecoder();
  let rest = "";
  let status = 0;
  let whole = true;
  try {
    const response = await fetch(`${url}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${key}`, ...headers },
      body: JSON.stringify(body),
      ...(signal && { signal }),
    });
    ({ status } = response);
    for await (const bytes of response.body ?? []) {
      const parts = (rest + decoder.decode(bytes, { stream: true })).split("\n\n");
      rest = parts.pop() ?? "";
      for (const part of parts) {
        const field = (line: string): string => new RegExp(`^${line}: (.*)$`, "m").exec(part)?.[1] ?? "";
        events.push({ data: field("data"), id: field("id") });
        onEvent(events.length);
      }
    }
  } catch {
    whole = false;
  }
  return { status, events, whole: whole && events.at(-1)?.data === "[DONE]" };
}

/** The usage records of a call, once there is one. */
export async function settled({ control }: TestMesh, callId: string) {
  const records = () => control.usage.filter((record) => record.callId === callId);
  await control.until(() => records().length > 0);
  return records();
}
