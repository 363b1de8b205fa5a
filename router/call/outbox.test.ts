import { describe, expect, test } from "vitest";
import { Outbox } from "./outbox.ts";

const bytes = (length: number, fill = 0) => new Uint8Array(length).fill(fill);

async function all(box: Outbox): Promise<Uint8Array[]> {
  const items: Uint8Array[] = [];
  for await (const item of box) items.push(item);
  return items;
}

function outbox(maxBytes: number) {
  const seen = { abandoned: 0 };
  return { box: new Outbox(maxBytes, () => (seen.abandoned += 1)), seen };
}

describe("an outbox", () => {
  test("gives items in order, then the end, for ever", async () => {
    const { box } = outbox(100);
    box.push(bytes(1, 1));
    box.push(bytes(1, 2));
    box.finish();
    expect(await all(box)).toEqual([bytes(1, 1), bytes(1, 2)]);
    expect(await box.next()).toEqual({ done: true, value: undefined });
  });

  test("hands an item to a consumer that waits", async () => {
    const { box } = outbox(1);
    const next = box.next();
    expect(box.push(bytes(50))).toBe(true);
    expect(await next).toEqual({ done: false, value: bytes(50) });
  });

  test("refuses what does not fit beside what is not taken", async () => {
    const { box } = outbox(10);
    expect(box.push(bytes(6))).toBe(true);
    expect(box.push(bytes(5))).toBe(false);
    await box.next();
    expect(box.push(bytes(5))).toBe(true);
  });

  test("takes one item of any size", () => {
    expect(outbox(10).box.push(bytes(1000))).toBe(true);
  });

  test("gives what is buffered before an error", async () => {
    const { box } = outbox(10);
    box.push(bytes(1));
    box.fail(new Error("lost"));
    expect(await box.next()).toEqual({ done: false, value: bytes(1) });
    await expect(box.next()).rejects.toThrow("lost");
    expect(await box.next()).toEqual({ done: true, value: undefined });
  });

  test("gives the error at once when the rest is dropped", async () => {
    const { box } = outbox(10);
    box.push(bytes(1));
    box.fail(new Error("cut"), true);
    await expect(box.next()).rejects.toThrow("cut");
  });

  test("rejects a consumer that waits", async () => {
    const { box } = outbox(10);
    const next = box.next();
    box.fail(new Error("lost"));
    await expect(next).rejects.toThrow("lost");
  });

  test("tells once that its consumer left early, and not when it left at the end", async () => {
    const early = outbox(10);
    for await (const item of (early.box.push(bytes(1)), early.box)) {
      expect(item).toEqual(bytes(1));
      break;
    }
    await early.box.return();
    expect(early.seen.abandoned).toBe(1);

    const late = outbox(10);
    late.box.finish();
    await all(late.box);
    await late.box.return();
    expect(late.seen.abandoned).toBe(0);
  });
});
