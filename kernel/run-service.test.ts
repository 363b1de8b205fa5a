import { type ChildProcess, type StdioOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";

const fixture = fileURLToPath(new URL("run-service.fixture.ts", import.meta.url));
const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});

interface Run {
  readonly child: ChildProcess;
  /** All of stdout, stderr and descriptor 3 until now. */
  readonly output: () => string;
  readonly ended: Promise<number | null>;
}

function run(args: string[], options: { env?: Record<string, string>; ipc?: boolean } = {}): Run {
  const stdio: StdioOptions = ["ignore", "pipe", "pipe", options.ipc ? "ipc" : "pipe"];
  const child = spawn(process.execPath, [fixture, ...args], { stdio, env: { ...process.env, ...options.env } });
  children.push(child);
  let output = "";
  for (const stream of child.stdio) {
    if (stream && "setEncoding" in stream) stream.setEncoding("utf8").on("data", (text: string) => (output += text));
  }
  const ended = once(child, "close").then(() => child.exitCode);
  return { child, output: () => output, ended };
}

const wait = { timeout: 20_000 };

async function started(service: Run): Promise<void> {
  await expect.poll(service.output, wait).toContain('"message":"started"');
}

test("prints help with its own and the common settings, and exits 0", async () => {
  const service = run(["--help"]);
  expect(await service.ended).toBe(0);
  expect(service.output()).toContain("Usage: helixmesh fixture [flags]");
  expect(service.output()).toContain("HELIXMESH_FIXTURE_MODE");
  expect(service.output()).toContain("--log-level");
});

test("prints all wrong settings and exits 2", async () => {
  const service = run(["--mdoe=good", "--log-level=loud"], { env: { HELIXMESH_FIXTURE_MODE: "bad" } });
  expect(await service.ended).toBe(2);
  expect(service.output()).toContain("unknown flag --mdoe; did you mean --mode?");
  expect(service.output()).toContain('--log-level is "loud"');
  expect(service.output()).toContain('HELIXMESH_FIXTURE_MODE is "bad"');
});

test.each(["SIGTERM", "SIGINT"] as const)("drains on %s and exits 0", async (signal) => {
  const service = run([]);
  await started(service);
  service.child.kill(signal);
  expect(await service.ended).toBe(0);
  expect(service.output()).toContain("drain began");
  expect(service.output()).toContain('"message":"stopped"');
});

test("takes the copies of one Ctrl-C for one, and drains", async () => {
  const service = run([]);
  await started(service);
  // Of two kinds, because two of one kind may arrive as one.
  service.child.kill("SIGINT");
  service.child.kill("SIGTERM");
  expect(await service.ended).toBe(0);
  expect(service.output()).toContain('"message":"stopped"');
});

test("exits 130 on a second signal", async () => {
  const service = run(["--mode=slow"]);
  await started(service);
  service.child.kill("SIGTERM");
  await expect.poll(service.output, wait).toContain("drain began");
  // Signals soon after the first are copies of it, so one is sent until one is late enough.
  await expect.poll(() => service.child.kill("SIGTERM"), wait).toBe(false);
  expect(await service.ended).toBe(130);
});

test("says why it could not start and exits 1", async () => {
  const service = run(["--mode=refuse"]);
  expect(await service.ended).toBe(1);
  expect(service.output()).toContain('"message":"start failed"');
  expect(service.output()).toContain("port 1 is in use");
});

test("says why it could not drain and exits 1", async () => {
  const service = run(["--mode=stuck"]);
  await started(service);
  service.child.kill("SIGTERM");
  expect(await service.ended).toBe(1);
  expect(service.output()).toContain("cannot drain");
});

test("crashes with a log line on a forgotten rejection", async () => {
  const service = run(["--mode=reject"]);
  expect(await service.ended).toBe(1);
  expect(service.output()).toContain('"message":"crashed"');
  expect(service.output()).toContain("forgotten promise");
});

const ready = { type: "ready", url: "http://127.0.0.1:1", adminUrl: "http://127.0.0.1:2" };

test("tells the descriptor of HELIXMESH_READY_FD that it is ready", async () => {
  const service = run(["--log-level=error"], { env: { HELIXMESH_READY_FD: "3" } });
  await expect.poll(service.output, wait).toContain(`${JSON.stringify(ready)}\n`);
});

test("tells its parent that it is ready, and drains when the parent is gone", async () => {
  const service = run([], { ipc: true });
  expect((await once(service.child, "message"))[0]).toEqual(ready);
  // A child whose channel was closed from here has no "close" event.
  const exit = once(service.child, "exit");
  service.child.disconnect();
  expect((await exit)[0]).toBe(0);
});
