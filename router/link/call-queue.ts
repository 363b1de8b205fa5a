import type { Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import {
  CallBatchSchema,
  ConnectRequestSchema,
  FindCallSchema,
  ResumeCallSchema,
  StartCallSchema,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { ProtoWriter, lengthDelimitedBytes, stringBytes, uintBytes } from "#kernel/proto-writer.ts";

/** A call as it goes to the agent; the link numbers it. */
export interface LinkStart {
  readonly callId: string;
  readonly replicaId: string;
  readonly method: Method;
  readonly request: Uint8Array;
  readonly timeoutMs: number;
  readonly traceparent: string;
  readonly model: string;
  readonly deployment: string;
  /** Responses that the client has already, for a call that goes on where another replica stopped. */
  readonly relayed: readonly Uint8Array[];
  /** Who may resume it should this router die; empty for nobody. */
  readonly keyId: string;
  /** Unix milliseconds at which the door had the request. */
  readonly startedAtMs: number;
  /** Which dispatch of the call it is, from 1. */
  readonly attempt: number;
}

/** A call that this router is to resume and does not know the node of. */
export interface LinkFind {
  readonly callId: string;
  readonly keyId: string;
}

/** A call that its agent has, as this router takes it up. */
export interface LinkResume extends LinkFind {
  readonly replicaId: string;
  /** Of the request message, encoded. */
  readonly requestSha256: Uint8Array;
}

/** A message takes no further start beyond this: agents bound what one message may hold. */
const batchBytes = 1_048_576;

const calls = ConnectRequestSchema.field.calls.number;
const {
  starts: startsField,
  cancels: cancelsField,
  resendPrefixes: resendField,
  resumes: resumesField,
  finds: findsField,
} = CallBatchSchema.field;
const field = StartCallSchema.field;
const resumeField = ResumeCallSchema.field;
const findField = FindCallSchema.field;

interface QueuedStart {
  readonly number: number;
  readonly start: LinkStart;
  readonly bytes: number;
}

interface QueuedResume {
  readonly number: number;
  readonly resume: LinkResume;
}

/** One writer for all links: a message is written and copied out within one call. */
const writer = new ProtoWriter();

/** What a link tells its agent next: the starts, cancels and requests of one turn, written by hand into one message. */
export class CallQueue {
  #starts: QueuedStart[] = [];
  #resumes: QueuedResume[] = [];
  #finds: LinkFind[] = [];
  #cancels: number[] = [];
  readonly #resends = new Set<string>();

  get isEmpty(): boolean {
    const { length } = this.#starts;
    return length + this.#resumes.length + this.#finds.length + this.#cancels.length + this.#resends.size === 0;
  }

  start(number: number, start: LinkStart): void {
    this.#starts.push({ number, start, bytes: startBytes(number, start) });
  }

  resume(number: number, resume: LinkResume): void {
    this.#resumes.push({ number, resume });
  }

  find(call: LinkFind): void {
    this.#finds.push(call);
  }

  cancel(number: number): void {
    this.#cancels.push(number);
  }

  /** Asks for a snapshot of the replica's prefixes. */
  resendPrefixes(replicaId: string): void {
    this.#resends.add(replicaId);
  }

  clear(): void {
    this.#starts = [];
    this.#resumes = [];
    this.#finds = [];
    this.#cancels = [];
    this.#resends.clear();
  }

  /** The next ConnectRequest, encoded; lent until the next call of any queue. Nothing may be empty. */
  take(): { readonly bytes: Uint8Array; readonly length: number } {
    let count = 0;
    let length = 0;
    for (const { bytes } of this.#starts) {
      if (count > 0 && length + bytes > batchBytes) break;
      count += 1;
      length += lengthDelimitedBytes(bytes);
    }
    const starts = this.#starts.splice(0, count);
    // Behind the last start, so that none is cancelled before the agent knows it.
    const isLast = this.#starts.length === 0;
    const resumes = isLast ? this.#resumes : [];
    const finds = isLast ? this.#finds : [];
    const cancels = isLast ? this.#cancels : [];
    const resends = isLast ? [...this.#resends] : [];
    for (const queued of resumes) length += lengthDelimitedBytes(resumeBytes(queued));
    for (const call of finds) length += lengthDelimitedBytes(findBytes(call));
    for (const number of cancels) length += uintBytes(number);
    for (const id of resends) length += stringBytes(id);
    writer.clear();
    writer.lengthDelimited(calls, length);
    for (const start of starts) writeStart(start);
    for (const queued of resumes) writeResume(queued);
    for (const call of finds) writeFind(call);
    for (const number of cancels) writer.uint(cancelsField.number, number);
    for (const id of resends) writer.string(resendField.number, id);
    if (isLast) this.clear();
    return writer;
  }
}

function startBytes(number: number, start: LinkStart): number {
  let bytes = uintBytes(number) + stringBytes(start.callId) + stringBytes(start.replicaId) + uintBytes(start.method);
  bytes += lengthDelimitedBytes(start.request.length) + uintBytes(wholeMs(start.timeoutMs));
  bytes += stringBytes(start.traceparent) + stringBytes(start.model) + stringBytes(start.deployment);
  for (const response of start.relayed) bytes += lengthDelimitedBytes(response.length);
  bytes += stringBytes(start.keyId) + uintBytes(start.startedAtMs) + uintBytes(start.attempt);
  return bytes;
}

function writeStart({ number, start, bytes }: QueuedStart): void {
  writer.lengthDelimited(startsField.number, bytes);
  writer.uint(field.number.number, number);
  writer.string(field.callId.number, start.callId);
  writer.string(field.replicaId.number, start.replicaId);
  writer.uint(field.method.number, start.method);
  writer.raw(field.request.number, start.request);
  writer.uint(field.timeoutMs.number, wholeMs(start.timeoutMs));
  writer.string(field.traceparent.number, start.traceparent);
  writer.string(field.model.number, start.model);
  writer.string(field.deployment.number, start.deployment);
  for (const response of start.relayed) writer.raw(field.relayed.number, response);
  writer.string(field.keyId.number, start.keyId);
  writer.uint(field.startedAtMs.number, start.startedAtMs);
  writer.uint(field.attempt.number, start.attempt);
}

function resumeBytes({ number, resume }: QueuedResume): number {
  const { callId, keyId, requestSha256 } = resume;
  return uintBytes(number) + stringBytes(callId) + stringBytes(keyId) + lengthDelimitedBytes(requestSha256.length);
}

function writeResume(queued: QueuedResume): void {
  const { number, resume } = queued;
  writer.lengthDelimited(resumesField.number, resumeBytes(queued));
  writer.uint(resumeField.number.number, number);
  writer.string(resumeField.callId.number, resume.callId);
  writer.string(resumeField.keyId.number, resume.keyId);
  writer.raw(resumeField.requestSha256.number, resume.requestSha256);
}

function findBytes({ callId, keyId }: LinkFind): number {
  return stringBytes(callId) + stringBytes(keyId);
}

function writeFind(call: LinkFind): void {
  writer.lengthDelimited(findsField.number, findBytes(call));
  writer.string(findField.callId.number, call.callId);
  writer.string(findField.keyId.number, call.keyId);
}

function wholeMs(timeoutMs: number): number {
  return Math.min(Math.ceil(timeoutMs), Number.MAX_SAFE_INTEGER);
}
