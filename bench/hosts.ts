import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, type Server, connect, createServer } from "node:net";

/** Where a process of the mesh runs: the address that it listens on, and what its command begins with. */
export interface Place {
  readonly address: string;
  readonly command: readonly string[];
}

/** This machine as it is. */
export const here: Place = { address: "127.0.0.1", command: [] };

const bridge = "hm-bench";
/** Nobody's but the namespaces'. */
const network = "10.231.7";

/**
 * Network namespaces of this machine, joined by a bridge, in the place of hosts that vanish: what is sent from or to one
 * is dropped without a word, and no connection is closed. Linux, root, and iproute2's `ip` and `bridge`.
 */
export class Hosts {
  readonly #names: readonly string[];
  readonly #relays: Server[] = [];

  /** Names of at most 8 characters. */
  constructor(names: readonly string[]) {
    this.#names = names;
    this.#remove();
    ip("link", "add", bridge, "type", "bridge");
    ip("addr", "add", `${network}.1/24`, "dev", bridge);
    ip("link", "set", bridge, "up");
    for (const name of names) {
      const { address } = this.at(name);
      const inside = (...args: string[]): void => ip("-n", `hm-${name}`, ...args);
      ip("netns", "add", `hm-${name}`);
      ip("link", "add", `hm-${name}`, "type", "veth", "peer", "name", "eth0", "netns", `hm-${name}`);
      ip("link", "set", `hm-${name}`, "master", bridge, "up");
      inside("addr", "add", `${address}/24`, "dev", "eth0");
      inside("link", "set", "eth0", "up");
      inside("link", "set", "lo", "up");
    }
  }

  at(name: string): Place {
    const address = `${network}.${10 + this.#names.indexOf(name)}`;
    return { address, command: ["ip", "netns", "exec", `hm-${name}`] };
  }

  vanish(name: string): void {
    execFileSync("bridge", ["link", "set", "dev", `hm-${name}`, "state", "0"]);
  }

  comeBack(name: string): void {
    execFileSync("bridge", ["link", "set", "dev", `hm-${name}`, "state", "3"]);
  }

  /** A port of this machine's loopback, as the hosts reach it: host:port. */
  async expose(port: number): Promise<string> {
    const relay = createServer((near) => {
      const far = connect(port, "127.0.0.1");
      near.pipe(far).pipe(near);
      near.on("error", () => far.destroy());
      far.on("error", () => near.destroy());
    });
    this.#relays.push(relay.listen(0, `${network}.1`));
    await once(relay, "listening");
    return `${network}.1:${(relay.address() as AddressInfo).port}`;
  }

  close(): void {
    for (const relay of this.#relays) relay.close();
    this.#remove();
  }

  /** Also what a run left that was killed. */
  #remove(): void {
    const commands = [
      ...this.#names.flatMap((name) => [
        ["link", "del", `hm-${name}`],
        ["netns", "del", `hm-${name}`],
      ]),
      ["link", "del", bridge],
    ];
    for (const command of commands) {
      try {
        ip(...command);
      } catch {
        // It is not there.
      }
    }
  }
}

function ip(...args: string[]): void {
  execFileSync("ip", args, { stdio: ["ignore", "ignore", "pipe"] });
}
