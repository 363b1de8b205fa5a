import type { Clock } from "#kernel/clock.ts";
import { routerNodeFlags } from "#kernel/node-flags.ts";
import { LogFile } from "./log-file.ts";
import type { PortPlan } from "./ports.ts";
import { describeExit, type ServiceAddress, ServiceProcess, type ServiceSpec } from "./service-process.ts";
import { serviceFlags } from "./service-flags.ts";
import type { StateFolder } from "./state-folder.ts";
import type { StartError } from "./start-error.ts";

export interface MeshOptions {
  readonly state: StateFolder;
  readonly ports: PortPlan;
  /** Address of the router. */
  readonly host: string;
  readonly clock: Clock;
  /** Says a line to the person in front of the terminal. */
  readonly note: (text: string) => void;
  /** A service came up, also after a restart. */
  readonly onChange: () => void;
}

export interface NamedAddress extends ServiceAddress {
  readonly name: string;
}

export interface MeshAddresses {
  readonly router: ServiceAddress;
  readonly controlPlane: ServiceAddress;
  readonly nodeAgents: readonly NamedAddress[];
}

/** Longer than each service's own bound on its drain, which it keeps by itself. */
const drainTimeoutMs = 60_000;

/** The processes of one local mesh. */
export class Mesh {
  readonly logs: { readonly name: string; readonly file: LogFile }[] = [];
  readonly #options: MeshOptions;
  readonly #failure = Promise.withResolvers<never>();
  #controlPlane: ServiceProcess | undefined;
  #router: ServiceProcess | undefined;
  #agents: { readonly name: string; readonly service: ServiceProcess }[] = [];

  constructor(options: MeshOptions) {
    this.#options = options;
    // Looked at by whoever runs the mesh; a failure while it is being stopped concerns nobody.
    this.#failure.promise.catch(() => {});
  }

  /** Rejects with a StartError when a service failed for good. */
  get failure(): Promise<never> {
    return this.#failure.promise;
  }

  /** The control plane first: it makes the keys that the others come with. */
  async startControlPlane(): Promise<ServiceAddress> {
    const { state, ports } = this.#options;
    this.#controlPlane = this.#launch("control plane", "control-plane", {
      main: "control-plane/main.ts",
      ports: ports.controlPlane,
      args: (own) => serviceFlags.controlPlane(state, own),
    });
    return this.#controlPlane.up;
  }

  async startDataPlane(controlUrl: string): Promise<void> {
    const { state, ports, host } = this.#options;
    this.#router = this.#launch("router", "router", {
      main: "router/main.ts",
      nodeFlags: routerNodeFlags,
      ports: ports.router,
      args: (own) => serviceFlags.router(state, host, controlUrl, own),
    });
    this.#agents = ports.agents.map((agentPorts, index) => {
      const name = `local-${index + 1}`;
      const service = this.#launch(`node agent ${name}`, `node-agent-${name}`, {
        main: "node-agent/main.ts",
        ports: agentPorts,
        args: (own) => serviceFlags.agent(state, name, controlUrl, own),
      });
      return { name, service };
    });
    await Promise.all([this.#router.up, ...this.#agents.map(({ service }) => service.up)]);
  }

  /** Undefined while one of them is not up. */
  get addresses(): MeshAddresses | undefined {
    const [router, controlPlane] = [this.#router?.address, this.#controlPlane?.address];
    const nodeAgents = this.#agents.flatMap(({ name, service: { address } }) =>
      address ? [{ ...address, name }] : [],
    );
    if (!router || !controlPlane || nodeAgents.length < this.#options.ports.agents.length) return undefined;
    return { router, controlPlane, nodeAgents };
  }

  /** In order: callers first, then what works for them, then what writes down what it cost. */
  async drain(say: (text: string) => void): Promise<void> {
    if (this.#router) say("Stopping the router: calls under way are finished");
    await this.#router?.stop(drainTimeoutMs);
    if (this.#agents.length > 0) say("Stopping the node agents");
    await Promise.all(this.#agents.map(({ service }) => service.stop(drainTimeoutMs)));
    if (this.#controlPlane) say("Stopping the control plane and its database");
    await this.#controlPlane?.stop(drainTimeoutMs);
  }

  kill(): void {
    for (const service of this.#services()) service.kill();
  }

  #services(): ServiceProcess[] {
    return [this.#router, ...this.#agents.map(({ service }) => service), this.#controlPlane].filter(
      (one) => one !== undefined,
    );
  }

  #launch(
    name: string,
    logName: string,
    spec: Pick<ServiceSpec, "main" | "nodeFlags" | "ports" | "args">,
  ): ServiceProcess {
    const { state, clock, note, onChange } = this.#options;
    const log = new LogFile(state.path("logs", `${logName}.log`));
    this.logs.push({ name: logName, file: log });
    let restarted = false;
    const service: ServiceProcess = new ServiceProcess({ name, log, ...spec }, clock, {
      onReady: () => {
        if (restarted) note(`The ${name} is up again (pid ${service.pid ?? "unknown"}).`);
        this.#changed();
        onChange();
      },
      onExit: (exit) => {
        restarted = true;
        note(`The ${name} ${describeExit(exit)}. Its log: ${log.path}`);
      },
      onGiveUp: (error: StartError) => this.#failure.reject(error),
    });
    this.#changed();
    return service;
  }

  #changed(): void {
    const running = this.#services().flatMap(({ spec, pid }) => (pid === undefined ? [] : [{ name: spec.name, pid }]));
    this.#options.state.rememberChildren(running);
  }
}
