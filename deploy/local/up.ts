import { readFileSync } from "node:fs";
import { ConnectError } from "@connectrpc/connect";
import type { Clock } from "#kernel/clock.ts";
import type { StopSignals } from "#kernel/stop-signals.ts";
import { tendLogs } from "./log-file.ts";
import { Mesh } from "./mesh.ts";
import { planPorts } from "./ports.ts";
import type { Progress } from "./progress.ts";
import { connect, pocketModel, Provisioner } from "./provision.ts";
import { question, settleReplicas, waitForAnswer } from "./readiness.ts";
import { removeRunFile, writeRunFile } from "./run-file.ts";
import type { UpSettings } from "./settings.ts";
import { StartError } from "./start-error.ts";
import { openStateFolder, type StateFolder } from "./state-folder.ts";
import { summary } from "./summary.ts";

export interface UpParts {
  readonly clock: Clock;
  readonly signals: StopSignals;
  readonly progress: Progress;
  readonly out: (text: string) => void;
  readonly color: boolean;
}

/** A whole mesh from start to drain. Resolves with the exit code: 0 drained, 1 failed (said on stderr), 130 killed. */
export async function up(settings: UpSettings, parts: UpParts): Promise<0 | 1 | 130> {
  const { clock, signals, progress } = parts;
  let state: StateFolder | undefined;
  try {
    const onWait = (text: string): void => progress.step(text);
    state = await openStateFolder(settings.state, { clock, onWait, signal: signals.requested });
    return await runMesh(settings, parts, state);
  } catch (error) {
    progress.end();
    progress.note(`\nhelixmesh up: ${describe(error)}`);
    return 1;
  } finally {
    progress.end();
    await state?.release();
  }
}

async function runMesh(settings: UpSettings, parts: UpParts, state: StateFolder): Promise<0 | 130> {
  const { clock, signals, progress } = parts;
  const startedMs = clock.monotonicMs();
  const ports = await planPorts(settings);
  let answered = false;
  const writeWhenComplete = (): void => {
    const { addresses } = mesh;
    // From the first answer on: a script that sees the file can call the model.
    if (answered && addresses) writeRunFile(state, addresses);
  };
  const note = (text: string): void => progress.note(text);
  const mesh = new Mesh({ state, ports, host: settings.host, clock, note, onChange: writeWhenComplete });
  const killed = new Promise<"killed">((resolve) => {
    signals.forced.addEventListener("abort", () => {
      mesh.kill();
      resolve("killed");
    });
  });
  const stopRequested = new Promise<void>((resolve) => {
    if (signals.requested.aborted) resolve();
    else signals.requested.addEventListener("abort", () => resolve());
  });
  let untend = (): void => {};

  async function live(): Promise<void> {
    await startAll(mesh, settings, parts, state, () => {
      untend();
      untend = tendLogs(mesh.logs, clock, settings.verbose ? note : undefined);
    });
    if (signals.requested.aborted) return;
    answered = true;
    writeWhenComplete();
    progress.end();
    const { addresses } = mesh;
    if (addresses) {
      const seconds = (clock.monotonicMs() - startedMs) / 1_000;
      parts.out(summary({ addresses, state, settings, model: pocketModel.name, seconds, color: parts.color }));
    }
    await mesh.failure;
  }

  async function drained(): Promise<"drained"> {
    await mesh.drain((text) => progress.step(text));
    return "drained";
  }

  try {
    const living = live();
    // When a stop overtakes the start, what the start still has to say is about being stopped.
    living.catch(() => {});
    await Promise.race([stopRequested, living]);
    progress.end();
    answered = false;
    progress.note(`Stopping on ${String(signals.requested.reason)}; a second Ctrl-C ends it at once.`);
    return (await Promise.race([drained(), killed])) === "killed" ? 130 : 0;
  } catch (error) {
    progress.end();
    await Promise.race([drained(), killed]);
    throw error;
  } finally {
    removeRunFile(state);
    untend();
    progress.end();
  }
}

async function startAll(
  mesh: Mesh,
  settings: UpSettings,
  { clock, signals, progress }: UpParts,
  state: StateFolder,
  onLaunched: () => void,
): Promise<void> {
  const orFailure = <T>(work: Promise<T>): Promise<T> => Promise.race([work, mesh.failure]);
  progress.step("Starting the control plane and its database");
  const starting = mesh.startControlPlane();
  onLaunched();
  const controlPlane = await orFailure(starting);
  progress.step(`Starting the router and ${settings.nodes === 1 ? "a node agent" : `${settings.nodes} node agents`}`);
  const dataPlane = mesh.startDataPlane(controlPlane.url);
  dataPlane.catch(() => {}); // Awaited further down, unless something else fails first.
  onLaunched();
  const operator = connect(controlPlane.url, readKey(state, "operator-key"));
  try {
    const provisioner = new Provisioner(operator.transport);
    await orFailure(provisioner.ensureModel());
    const key = await orFailure(provisioner.probeKey(state));
    await orFailure(dataPlane);
    const look = () => provisioner.deployment(settings.nodes);
    await orFailure(settleReplicas(settings.nodes, 10_000, { look, clock, signal: signals.requested }));
    await orFailure(provisioner.ensureDeployment(settings.engine, settings.nodes));
    const { addresses } = mesh;
    if (!addresses)
      throw new StartError("A service ended right after its start; its log in the state folder says why.");
    const caller = connect(addresses.router.url, key);
    try {
      const tidyAndLook = async () => {
        await provisioner.forgetNodesBeyond(settings.nodes);
        return look();
      };
      const step = (text: string): void => progress.step(text);
      const ask = question(caller.transport, pocketModel.name);
      const timeoutMs = settings.readyTimeoutMs;
      await orFailure(waitForAnswer({ look: tidyAndLook, ask, clock, timeoutMs, step, signal: signals.requested }));
    } finally {
      caller.close();
    }
  } finally {
    operator.close();
  }
}

function readKey(state: StateFolder, name: string): string {
  try {
    return readFileSync(state.path(name), "utf8").trim();
  } catch (error) {
    throw new StartError(`The control plane made no ${name} in ${state.dir}.`, { cause: error });
  }
}

/** For the person in front of the terminal: no stacks of expected failures. */
function describe(error: unknown): string {
  if (error instanceof StartError) return error.message;
  if (error instanceof ConnectError) return `A service refused what it was asked: ${error.rawMessage}`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
