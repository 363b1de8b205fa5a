import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  CallEndSchema,
  type HeldCall,
  Method,
  type ResumeCall,
  ResumeCallSchema,
  StartCallSchema,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Metrics } from "#kernel/metrics.ts";
import { CallFinder } from "./call-finder.ts";
import { HeldCalls, type HeldLimits } from "./held-calls.ts";
import { type CallOwner, type RunningCall, SessionCall } from "./session-call.ts";

/** A call's engine side, and how often it was told what. */
class Running implements RunningCall {
  readonly cancels: Reason[] = [];
  orphaned = 0;
  adopted = 0;
  tokensElsewhere = 0;
  cancel({ reason }: MeshError): void {
    this.cancels.push(reason);
  }
  orphan(): void {
    this.orphaned += 1;
  }
  adopt(): void {
    this.adopted += 1;
  }
}

const nobody: CallOwner = { onResponses() {}, onEnd() {}, onForgotten() {}, onTaken() {} };
const request = Uint8Array.of(1, 2, 3);
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

let clock: ManualClock;
let metrics: Metrics;
let news: (readonly [callId: string, released: boolean])[];
beforeEach(() => {
  clock = new ManualClock();
  metrics = new Metrics("node-agent");
  news = [];
});

function open(limits: Partial<HeldLimits> = {}): HeldCalls {
  return new HeldCalls({
    limits: { windowMs: 1_000, calls: 10, callBytes: 10_000, totalBytes: 100_000, ...limits },
    onChange: ({ callId, released }: HeldCall) => void news.push([callId, released]),
    clock,
    metrics,
  });
}

function begin(held: HeldCalls, callId: string, fields: Partial<Parameters<typeof startOf>[1]> = {}) {
  const call = new SessionCall(startOf(callId, fields), nobody, held.kept);
  const running = new Running();
  call.running = running;
  return { call, running };
}

function startOf(
  callId: string,
  fields: { keyId?: string; attempt?: number; relayed?: Uint8Array[]; method?: Method },
) {
  return create(StartCallSchema, {
    number: 1,
    callId,
    keyId: "k",
    method: Method.GENERATE,
    request,
    attempt: 1,
    ...fields,
  });
}

function resume(callId: string, fields: { keyId?: string; request?: Uint8Array } = {}) {
  const requestSha256 = createHash("sha256")
    .update(fields.request ?? request)
    .digest();
  return create(ResumeCallSchema, { number: 7, callId, keyId: fields.keyId ?? "k", requestSha256 });
}

function find(held: HeldCalls, resumeCall: ResumeCall) {
  return new CallFinder({ held, sessions: [] }).find(resumeCall);
}

const refused = (reason: Reason) => expect.objectContaining({ reason }) as unknown;

describe("a call whose link broke", () => {
  test("is told whole to the router that takes it up, with what it said meanwhile, and goes on there", () => {
    const held = open();
    const { call, running } = begin(held, "c", { relayed: [text("a")] });
    running.tokensElsewhere = 4;
    call.push([text("b")], 1);
    expect(held.hold(call, "r1")).toBe(true);
    call.push([text("c"), text("d")], 2);
    expect(find(held, resume("c"))).toBe(call);
    const heard: unknown[] = [];
    const said = call.adopt({ ...nobody, onResponses: (_, all, tokens) => void heard.push([all, tokens]) }, 7);
    expect(said).toEqual({ responses: ["a", "b", "c", "d"].map(text), completionTokens: 7, end: undefined });
    call.push([text("e")], 1);
    expect(heard).toEqual([[[text("e")], 1]]);
    expect(call.number).toBe(7);
    expect(running).toMatchObject({ orphaned: 1, adopted: 1, cancels: [] });
    expect(news).toEqual([
      ["c", false],
      ["c", true],
    ]);
    clock.advance(5_000);
    expect(running.cancels).toEqual([]);
  });

  test("is cancelled when its time is over, and cannot be taken up then", async () => {
    const held = open();
    const { call, running } = begin(held, "c");
    held.hold(call, "r1");
    expect(held.list).toMatchObject([{ callId: "c", keyId: "k", attempt: 1, released: false }]);
    clock.advance(1_000);
    expect(running.cancels).toEqual([Reason.CANCELLED]);
    expect(find(held, resume("c"))).toEqual(refused(Reason.NOT_FOUND));
    expect(held.list).toEqual([]);
    const page = await metrics.text();
    expect(page).toMatch(/link_held_calls\{[^}]*\} 0\n/);
    expect(page).toMatch(/link_held_calls_ended_total\{[^}]*outcome="expired"[^}]*\} 1\n/);
  });

  test("is kept to its time when it ends meanwhile, with its end", () => {
    const held = open();
    const { call } = begin(held, "c");
    held.hold(call, "r1");
    const end = create(CallEndSchema, { reason: Reason.UNSPECIFIED });
    call.push([text("all")], 1);
    call.end(end);
    expect(find(held, resume("c"))).toBe(call);
    expect(call.adopt(nobody, 2)).toEqual({ responses: [text("all")], completionTokens: 1, end });
  });

  test("is nobody's but its key's, and only for the same request", () => {
    const held = open();
    const { call } = begin(held, "c");
    held.hold(call, "r1");
    expect(find(held, resume("c", { keyId: "other" }))).toEqual(refused(Reason.NOT_FOUND));
    expect(find(held, resume("c", { request: Uint8Array.of(9) }))).toEqual(refused(Reason.INVALID_REQUEST));
    expect(find(held, resume("c"))).toBe(call);
  });

  test("is cancelled when the process of its router is back, and when the node drains", () => {
    const held = open();
    const [own, others, last] = ["a", "b", "c"].map((callId) => begin(held, callId));
    if (!own || !others || !last) throw new Error("three calls");
    held.hold(own.call, "r1");
    held.hold(others.call, "r2");
    held.routerBack("r1");
    expect([own, others].map(({ running }) => running.cancels.length)).toEqual([1, 0]);
    held.close();
    expect(others.running.cancels).toEqual([Reason.CANCELLED]);
    expect(held.hold(last.call, "r3")).toBe(false);
  });

  test("is held only while there is room, and if its router says which process it is", async () => {
    const held = open({ calls: 1 });
    expect(held.hold(begin(held, "old").call, "")).toBe(false);
    expect(held.hold(begin(held, "a").call, "r1")).toBe(true);
    expect(held.hold(begin(held, "b").call, "r1")).toBe(false);
    expect(await metrics.text()).toMatch(/link_hold_bound_reached_total\{[^}]*bound="held_calls"[^}]*\} 1\n/);
  });

  test.each([{ callBytes: 1_000 }, { totalBytes: 1_000 }])("is not held once it said more than %o", async (limits) => {
    const held = open(limits);
    const { call, running } = begin(held, "c");
    call.push([new Uint8Array(700)], 1);
    expect(call.resumable).toBe(true);
    call.push([new Uint8Array(700)], 1);
    expect(held.hold(call, "r1")).toBe(false);
    const [bound] = Object.keys(limits).map((name) => name.replace("Bytes", "_bytes"));
    expect(await metrics.text()).toMatch(
      new RegExp(`link_hold_bound_reached_total\\{[^}]*bound="${bound}"[^}]*\\} 1\\n`),
    );
    expect(running.cancels).toEqual([]);
    // What it kept is free again.
    const next = begin(held, "d").call;
    next.push([new Uint8Array(700)], 1);
    expect(held.hold(next, "r1")).toBe(true);
  });

  test("ends when it says more than may be kept while it is held", () => {
    const held = open({ callBytes: 1_000 });
    const { call, running } = begin(held, "c");
    held.hold(call, "r1");
    call.push([new Uint8Array(900)], 1);
    expect(running.cancels).toEqual([Reason.CANCELLED]);
    expect(held.list).toEqual([]);
  });

  test("is not held when it was cancelled, embeds, or has no key; nor is any without a window", () => {
    const held = open();
    const cancelled = begin(held, "a").call;
    cancelled.cancel(new MeshError(Reason.CANCELLED, "The caller cancelled the call."));
    const rest = [begin(held, "b", { method: Method.EMBED }).call, begin(held, "c", { keyId: "" }).call];
    const off = open({ windowMs: 0 });
    expect([cancelled, ...rest].map((call) => held.hold(call, "r1"))).toEqual([false, false, false]);
    expect(off.hold(begin(off, "d").call, "r1")).toBe(false);
  });

  test("takes the place of an earlier attempt of the same call, and not of a later one", () => {
    const held = open();
    const [first, second] = [begin(held, "c"), begin(held, "c", { attempt: 2 })];
    held.hold(first.call, "r1");
    expect(held.hold(second.call, "r1")).toBe(true);
    expect(first.running.cancels).toEqual([Reason.CANCELLED]);
    expect(held.hold(begin(held, "c").call, "r1")).toBe(false);
    expect(find(held, resume("c"))).toBe(second.call);
  });
});
