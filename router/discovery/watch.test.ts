import { create } from "@bufbuild/protobuf";
import { type ConnectRouter, createClient, createRouterTransport } from "@connectrpc/connect";
import { afterEach, describe, expect, test } from "vitest";
import { DiscoveryService, type WatchResponse, WatchResponseSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { type IndexedSnapshot, emptySnapshot } from "./snapshot.ts";
import { Discovery } from "./watch.ts";

const running: Discovery[] = [];
afterEach(async () => {
  for (const discovery of running.splice(0)) await discovery.stop();
});

const snapshot = (version: bigint, ...models: string[]): WatchResponse =>
  create(WatchResponseSchema, {
    update: { case: "snapshot", value: { version, models: models.map((name) => ({ name })) } },
  });
const delta = (version: bigint, ...models: string[]): WatchResponse =>
  create(WatchResponseSchema, {
    update: { case: "delta", value: { version, upserts: { models: models.map((name) => ({ name })) } } },
  });

/** Each connection gets the next list of messages, then silence until it is cut; after the last list, silence. */
function watch(connections: readonly (readonly WatchResponse[])[], initial?: IndexedSnapshot) {
  const clock = new ManualClock();
  const seen = { connections: 0, saved: new Array<bigint>(), lost: 0 };
  let wake: (() => void)[] = [];
  const tell = (): void => {
    for (const resolve of wake.splice(0)) resolve();
  };
  const lost = (): void => {
    seen.lost += 1;
    tell();
  };
  const transport = createRouterTransport((router: ConnectRouter) =>
    router.service(DiscoveryService, {
      async *watch(_request, context) {
        const messages = connections[seen.connections] ?? [];
        seen.connections += 1;
        tell();
        yield* messages;
        await new Promise<void>((resolve) => context.signal.addEventListener("abort", () => resolve()));
      },
    }),
  );
  const discovery = new Discovery({
    client: createClient(DiscoveryService, transport),
    routerId: "router",
    initial,
    save: (next) => void seen.saved.push(next.version),
    backoff: new Backoff({ initialMs: 100, maxMs: 1_000 }, seededRandom(1)),
    clock,
    logger: { ...silentLogger, warn: lost, debug: lost },
    metrics: new Metrics("test"),
  });
  discovery.onChange(tell);
  running.push(discovery);
  discovery.start();
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) {
      await new Promise<void>((resolve) => {
        wake.push(resolve);
        setImmediate(resolve);
      });
    }
  };
  return { clock, discovery, seen, until };
}

describe("discovery", () => {
  test("serves what the control plane says, delta by delta, and saves each", async () => {
    const { discovery, seen, until } = watch([[snapshot(5n, "a"), delta(6n, "b"), delta(6n)]]);
    expect(discovery.present).toBe(false);
    await until(() => discovery.snapshot.version === 6n);
    expect([...discovery.snapshot.models.keys()]).toEqual(["a", "b"]);
    expect(discovery.present).toBe(true);
    expect(seen.saved).toEqual([5n, 6n]);
  });

  test("is present from the start with what was on disk", () => {
    const { discovery } = watch([], { ...emptySnapshot, version: 3n });
    expect(discovery.present).toBe(true);
    expect(discovery.snapshot.version).toBe(3n);
  });

  test("reconnects after 45 silent seconds, keeps its snapshot until then, and takes the new one", async () => {
    const { clock, discovery, seen, until } = watch([[snapshot(5n, "a")], [snapshot(2n, "c")]]);
    await until(() => discovery.snapshot.version === 5n);
    clock.advance(44_999);
    expect(seen.connections).toBe(1);
    clock.advance(1);
    await until(() => seen.lost === 1);
    expect(discovery.snapshot.version).toBe(5n);
    clock.advance(100);
    await until(() => discovery.snapshot.version === 2n);
    expect([...discovery.snapshot.models.keys()]).toEqual(["c"]);
  });

  test.each([
    ["that begins with a delta", [delta(1n, "a")]],
    ["whose versions go back", [snapshot(5n, "a"), delta(4n, "b")]],
  ])("leaves a watch %s", async (_name, messages) => {
    const { clock, discovery, seen, until } = watch([messages, [snapshot(9n, "z")]]);
    await until(() => seen.lost === 1);
    expect(seen.connections).toBe(1);
    clock.advance(100);
    await until(() => discovery.snapshot.version === 9n);
    expect([...discovery.snapshot.models.keys()]).toEqual(["z"]);
  });
});
