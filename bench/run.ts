// `npm run bench -- NAME`: measures the whole mesh against a peer or a limit, in one run. Bounded in time and count.
import { runEngineBench } from "./engine.ts";
import { runGatewaysBench } from "./gateways.ts";
import { runLoadBench } from "./load.ts";
import { runRelayBench } from "./relay.ts";
import { writeReadmeTables } from "./report.ts";
import { runRoutingBench } from "./routing.ts";
import { runVanishBench } from "./vanish.ts";

const benches: Record<string, { readonly about: string; readonly run: (flags: readonly string[]) => Promise<void> }> = {
  engine: { about: "1 and 16 clients stream stories from Pocket: the mesh beside llama-server", run: runEngineBench },
  load: { about: "ghz and k6 against the mesh with the sim engine: gRPC, Connect, OpenAI SSE", run: runLoadBench },
  relay: {
    about: "CPU, latency and memory of relaying beside nginx and HAProxy (--quick: about a minute)",
    run: runRelayBench,
  },
  gateways: {
    about: "CPU a request and a token, and prefix hits, beside SMG, LiteLLM, Portkey, nginx and HAProxy (--quick)",
    run: runGatewaysBench,
  },
  routing: {
    about: "8 to 4,000 simulated nodes: hit rate, TTFT and goodput of each routing policy, and what a pick costs",
    run: runRoutingBench,
  },
  vanish: {
    about: "what clients see when the host of a node or a router vanishes (Linux, root, iproute2)",
    run: runVanishBench,
  },
  readme: { about: "write the tables of bench/README.md from bench/results", run: writeReadmeTables },
};

const name = process.argv[2] ?? "";
const bench = benches[name];
if (bench === undefined) {
  const lines = Object.entries(benches).map(([key, { about }]) => `  npm run bench -- ${key.padEnd(8)} ${about}`);
  console.error(`${name === "" ? "Which benchmark?" : `There is no benchmark "${name}".`}\n${lines.join("\n")}`);
  process.exit(2);
}
// So that what the benchmark started ends with it.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(130));
try {
  await bench.run(process.argv.slice(3));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
}
