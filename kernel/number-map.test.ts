import { spawnSync } from "node:child_process";
import fc from "fast-check";
import { expect, test } from "vitest";
import { NumberMap } from "#kernel/number-map.ts";

// Few, so that they collide and come again; some beyond 32 bits.
const key = fc.oneof(
  fc.nat(40),
  fc.nat(40).map((low) => low * 16),
  fc.nat(3).map((low) => 2 ** 40 + low),
);
const change = fc.oneof(
  fc.record({ kind: fc.constant("set" as const), key, value: fc.nat() }),
  fc.record({ kind: fc.constant("delete" as const), key, value: fc.constant(0) }),
);

test("holds what a Map holds, whatever is put in and taken out", () => {
  fc.assert(
    fc.property(fc.array(change, { maxLength: 200 }), (changes) => {
      const map = new NumberMap<number>();
      const model = new Map<number, number>();
      for (const { kind, key, value } of changes) {
        const apply = (to: Pick<Map<number, number>, "delete"> & { set(key: number, value: number): unknown }) =>
          kind === "set" ? void to.set(key, value) : to.delete(key);
        expect(apply(map)).toBe(apply(model));
        expect(map.get(key)).toBe(model.get(key));
        expect(map.has(key)).toBe(model.has(key));
        expect(map.size).toBe(model.size);
      }
      expect(map.values().sort((a, b) => a - b)).toEqual([...model.values()].sort((a, b) => a - b));
      for (const [key, value] of model) expect(map.get(key)).toBe(value);
    }),
  );
});

test("is empty after it was cleared", () => {
  const map = new NumberMap<string>();
  map.set(1, "a");
  map.clear();
  expect([map.size, map.get(1), map.has(1), map.values()]).toEqual([0, undefined, false, []]);
  map.set(1, "b");
  expect(map.values()).toEqual(["b"]);
});

test("lets entries die young that came after a full collection", () => {
  const module = new URL("./number-map.ts", import.meta.url).href;
  const script = `
    import { NumberMap } from ${JSON.stringify(module)};
    import v8 from "node:v8";
    const map = new NumberMap();
    let next = 0;
    const churn = (count) => {
      for (let i = 0; i < count; i++) {
        map.set(next, { text: new Array(200).fill(next) });
        map.delete(next++ - 256);
      }
    };
    const oldBytes = () => v8.getHeapSpaceStatistics().find(({ space_name }) => space_name === "old_space").space_used_size;
    churn(10_000);
    gc();
    const before = oldBytes();
    churn(20_000);
    console.log(oldBytes() - before);
  `;
  const { stdout } = spawnSync(process.execPath, ["--expose-gc", "--input-type=module", "-e", script], {
    encoding: "utf8",
  });
  // With a Map it is tens of megabytes.
  expect(Number(stdout.trim() || Number.NaN)).toBeLessThan(4_000_000);
});
