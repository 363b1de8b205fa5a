import { describe, expect, test } from "vitest";
import { create } from "@bufbuild/protobuf";
import { WaitingSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Outbox } from "./outbox.ts";

const item = (fill: number) => new Uint8Array([fill, fill]);
const lost = new MeshError(Reason.NODE_LOST, "lost");

function outbox(begin: () => void = () => {}) {
  const client = new AbortController();
  const heard = { resumed: 0, aborted: [] as unknown[], cut: 0 };
  const box = new Outbox(
    () => {
      begin();
      return {
        resume: () => void (heard.resumed += 1),
        abort: (reason?: unknown) => void heard.aborted.push(reason),
      };
    },
    { signal: client.signal, cutClient: () => void (heard.cut += 1), encodeWaiting: () => item(7) },
  );
  return { box, client, heard };
}

describe("an outbox", () => {
  test("gives items in order, then the end, for ever", async () => {
    const { box } = outbox();
    const first = box.next();
    expect(box.writeMessage(item(1), 0, 2)).toBe(true);
    expect(box.writeMessage(item(2), 0, 2)).toBe(false);
    box.finish();
    expect([await first, await box.next(), await box.next(), await box.next()]).toEqual([
      { done: false, value: item(1) },
      { done: false, value: item(2) },
      { done: true, value: undefined },
      { done: true, value: undefined },
    ]);
  });

  test("gives a word of a wait to a consumer that waits, and keeps none", async () => {
    const { box } = outbox();
    const waiting = create(WaitingSchema);
    box.wait?.(waiting);
    const first = box.next();
    box.wait?.(waiting);
    box.wait?.(waiting);
    expect(await first).toEqual({ done: false, value: item(7) });
    const second = box.next();
    box.writeMessage(item(1), 0, 2);
    expect(await second).toEqual({ done: false, value: item(1) });
    const silent = new Outbox(() => ({ resume() {}, abort() {} }), { signal: new AbortController().signal });
    expect(silent.wait).toBeUndefined();
  });

  test("keeps a copy of lent bytes", async () => {
    const { box } = outbox();
    const lent = Buffer.from([9, 1, 1, 9]);
    box.writeMessage(lent, 1, 3);
    lent.fill(0);
    expect(await box.next()).toEqual({ done: false, value: item(1) });
  });

  test("asks for more when its one item was taken", async () => {
    const { box, heard } = outbox();
    box.writeMessage(item(1), 0, 2);
    expect(heard.resumed).toBe(0);
    await box.next();
    expect(heard.resumed).toBe(1);
  });

  test("gives what it holds before an error, and an error once", async () => {
    const { box } = outbox();
    box.writeMessage(item(1), 0, 2);
    box.fail(lost);
    expect(await box.next()).toEqual({ done: false, value: item(1) });
    await expect(box.next()).rejects.toThrow("lost");
    expect(await box.next()).toEqual({ done: true, value: undefined });
  });

  test("rejects a consumer that waits", async () => {
    const { box } = outbox();
    const next = box.next();
    box.fail(lost);
    await expect(next).rejects.toThrow("lost");
  });

  test("ends its client at once when the call is cut", async () => {
    const { box, heard } = outbox();
    box.writeMessage(item(1), 0, 2);
    box.cut(lost);
    expect(heard.cut).toBe(1);
    await expect(box.next()).rejects.toThrow("lost");
  });

  test("aborts the call when its consumer leaves early, and not when it leaves at the end", async () => {
    const early = outbox();
    early.box.writeMessage(item(1), 0, 2);
    for await (const taken of early.box) {
      expect(taken).toEqual(item(1));
      break;
    }
    await early.box.return();
    expect(early.heard.aborted).toEqual([undefined]);

    const late = outbox();
    late.box.finish();
    await late.box.next();
    await late.box.return();
    expect(late.heard.aborted).toEqual([]);
  });

  test("aborts the call with its client's signal until the call is over", () => {
    const { client, heard } = outbox();
    client.abort("gone");
    expect(heard.aborted).toEqual(["gone"]);

    const over = outbox();
    over.box.finish();
    over.client.abort("gone");
    expect(over.heard.aborted).toEqual([]);
  });
});
