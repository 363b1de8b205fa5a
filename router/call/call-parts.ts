import type { Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Random } from "#kernel/random.ts";
import type { Span } from "#kernel/trace.ts";
import type { Permit } from "../admission/limits.ts";
import type { Queues } from "../admission/queues.ts";
import type { Rooms } from "../admission/rooms.ts";
import type { Health } from "../failure/health.ts";
import type { LinkFind, LinkResume, LinkStart } from "../link/call-queue.ts";
import type { LinkCall, LinkCallEvents } from "../link/link-call.ts";
import type { Need } from "../routing/need.ts";
import type { ReplicaView } from "../routing/replica-view.ts";
import type { Routes } from "../routing/routes.ts";
import type { CallMetrics } from "./call-metrics.ts";
import type { CallContext } from "./calls.ts";
import type { Drawing } from "./continuity.ts";
import type { RecordingMemory } from "./recording-memory.ts";
import type { ResumableCalls } from "./resumable-calls.ts";
import type { Settle } from "./settle.ts";
import type { ResponseSink } from "./sink.ts";
import type { WaitNotices } from "./wait-notices.ts";

export interface CallSettings {
  /** Longest a call may take, whatever the client asks for. */
  readonly callTimeoutMs: number;
  /** Longest a call waits for a replica to become ready, over all attempts. */
  readonly readyWaitMs: number;
  /** How long a cancelled call waits for the agent to say what it had generated. */
  readonly cancelGraceMs: number;
  /** Longest from a dispatch to the first output of a generation, and from one token of it to the next. */
  readonly firstTokenTimeoutMs: number;
  readonly interTokenTimeoutMs: number;
  /** Times a call may be dispatched without bringing anything. */
  readonly maxAttempts: number;
  /** Times a call with output may go on elsewhere. */
  readonly maxMoves: number;
  /** How long a call that is resumed waits for word of who has it. */
  readonly resumeWaitMs: number;
  /** Bytes generated for a client that has not taken them. */
  readonly maxBufferedBytes: number;
}

/** What a call needs of the links to all agents. */
export interface CallLinks {
  /** Undefined when the replica takes no new calls. */
  replica(nodeId: string, replicaId: string): ReplicaView | undefined;
  /** Undefined when the replica takes no calls at this moment. */
  start(nodeId: string, start: LinkStart, events: LinkCallEvents): LinkCall | undefined;
  /** How many nodes `find` asks. */
  readonly size: number;
  /** Asks all nodes for a call; `ResumableCalls` hears of those that have it. */
  find(call: LinkFind): void;
  /** Undefined when the node's link is down. */
  resume(nodeId: string, resume: LinkResume, events: LinkCallEvents): LinkCall | undefined;
  /** Calls `listener` when a replica may have become ready, until the returned function is called. */
  onChange(listener: () => void): () => void;
}

export interface CallParts {
  readonly settings: CallSettings;
  readonly pool: CallLinks;
  readonly routes: Pick<Routes, "pick" | "shadows">;
  readonly queues: Queues;
  readonly rooms: Rooms;
  readonly notices: WaitNotices;
  readonly health: Health;
  readonly recordings: RecordingMemory;
  readonly resumables: ResumableCalls;
  readonly settle: Settle;
  readonly metrics: CallMetrics;
  readonly clock: Clock;
  readonly random: Random;
}

/** What to run, checked and resolved. */
export interface CallSpec {
  readonly context: CallContext;
  readonly method: Method;
  /** The model's resolved name. */
  readonly model: string;
  /** The request message, encoded. */
  readonly request: Uint8Array;
  readonly needs: readonly Need[];
  /** 0 (background) to 9 (most urgent). */
  readonly priority: number;
  /** See kernel/prompt-blocks.ts; undefined for methods that cache nothing by prefix. */
  readonly promptBlocks: Uint32Array | undefined;
  /** Only this deployment may serve it, now or never; undefined means any of the model's, after a wait if need be. */
  readonly deployment: string | undefined;
  /** For generations. */
  readonly drawing: Drawing;
  readonly labels: Readonly<Record<string, string>>;
  readonly sink: ResponseSink;
  readonly permit: Permit;
  readonly span: Span;
  /** Unix milliseconds at which the door had the request. */
  readonly startedAtMs: number;
}
