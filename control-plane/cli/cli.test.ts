import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { createApiKey } from "#kernel/api-key.ts";
import { commands, runCli } from "./cli.ts";
import { type FakeMesh, recordingTerminal, startFakeMesh } from "./fake-mesh.ts";

const operatorKey = createApiKey().text;
const callerKey = createApiKey().text;
let mesh: FakeMesh;
let state: string;

beforeAll(async () => {
  mesh = await startFakeMesh();
  state = mkdtempSync(join(tmpdir(), "helixmesh-cli-"));
  writeFileSync(
    join(state, "run.json"),
    JSON.stringify({ router: { url: mesh.url }, controlPlane: { url: mesh.url } }),
  );
  writeFileSync(join(state, "operator-key"), `${operatorKey}\n`);
  writeFileSync(join(state, "key"), `${callerKey}\n`);
});
afterAll(async () => {
  rmSync(state, { recursive: true, force: true });
  await mesh.close();
});
beforeEach(() => {
  mesh.requests.length = 0;
  mesh.authorizations.clear();
});

async function run(...words: string[]) {
  return runIn({ HELIXMESH_STATE_DIR: state }, ...words);
}

async function runIn(env: Record<string, string>, ...words: string[]) {
  const terminal = recordingTerminal(env, "from stdin");
  const code = await runCli(words, terminal);
  return { code, out: terminal.stdout, err: terminal.stderr };
}

describe("tables", () => {
  test("list every page, aligned, with prices per million tokens", async () => {
    const { code, out } = await run("models", "list");
    expect(code).toBe(0);
    expect(out.split("\n")).toEqual([
      "NAME    VERSION  ALIASES    PROMPT  COMPLETION  SOURCE",
      "pocket  1        tiny      $0.05/M     $0.20/M  builtin:pocket",
      "zeta    7        -        no price    no price  -",
      "",
    ]);
  });

  test("show readiness and what is wrong with a deployment", async () => {
    const { out } = await run("deployments", "list");
    expect(out).toMatch(/^pocket +pocket +sim +1\/2 +local-1, local-2 +round-robin; weight 3 +local-2: no memory$/m);
  });

  test("show how far a replica is that comes, of several the first", async () => {
    const { out } = await run("deployments", "list");
    expect(out).toMatch(/^slow +pocket +sim +0\/2, loading 43 % +local-3 +- +-$/m);
    const one = await run("deployments", "get", "slow");
    expect(one.out).toMatch(/^rep_10 +local-3 +fetching 43 % /m);
    expect(one.out).toMatch(/^rep_11 +local-3 +loading 43 % /m);
  });

  test("show usage exactly, with a total that admits unpriced calls", async () => {
    const { out } = await run("usage", "--by", "model");
    expect(out.split("\n")).toEqual([
      "MODEL   CALLS  FAILED     PROMPT  CACHED  COMPLETION                       COST",
      "pocket  1,234       1  1,234,567       3          40               $0.000001234",
      "zeta        1       1          1       3          40                    unknown",
      "TOTAL   1,235       2  1,234,568       6          80  $0.000001234 + 1 unpriced",
      "",
    ]);
  });
});

test("nodes list shows where each is", async () => {
  const { out } = await run("nodes", "list");
  expect(out).toMatch(/^NAME +STATE +ZONE +LINK/);
  expect(out).toMatch(/^local-1 +online +eu-1a /m);
});

describe("--json", () => {
  test("prints a list with every field", async () => {
    const { out } = await run("usage", "--json");
    expect(JSON.parse(out)).toEqual([
      {
        group: ["pocket"],
        calls: "1234",
        failedCalls: "1",
        promptTokens: "1234567",
        cachedTokens: "3",
        completionTokens: "40",
        costNanos: "1234",
        unpricedCalls: "0",
      },
    ]);
  });

  test("prints the answer of a chat with its usage", async () => {
    const { out } = await run("chat", "--json", "hello");
    expect(JSON.parse(out)).toMatchObject({
      text: "The capital of Japan is Tokyo.",
      finished: { usage: { promptTokens: 12 } },
    });
  });
});

describe("commands", () => {
  test("reach the control plane with the operator's key", async () => {
    await run("nodes", "list");
    expect([...mesh.authorizations]).toEqual([`Bearer ${operatorKey}`]);
  });

  test("reach the router with the caller's key", async () => {
    const { out } = await run("chat", "What", "is", "it?");
    expect(out).toBe("The capital of Japan is Tokyo.\n");
    expect([...mesh.authorizations]).toEqual([`Bearer ${callerKey}`]);
    expect(mesh.requests[0]).toMatchObject({
      model: "pocket",
      input: { value: { messages: [{ content: "What is it?" }] } },
    });
  });

  test("show somebody who looks on what an answer waits for, in a line that goes when it comes", async () => {
    const terminal = recordingTerminal({ HELIXMESH_STATE_DIR: state });
    expect(await runCli(["chat", "hello"], { ...terminal, interactive: true })).toBe(0);
    const clearLine = "\r\x1b[2K";
    const shown = `${clearLine}\x1b[2mwaiting: 1 loading (43 %)\x1b[0m${clearLine}`;
    expect(terminal.stderr.slice(0, shown.length)).toBe(shown);
    expect(terminal.stdout).toBe("The capital of Japan is Tokyo.\n");
  });

  test("take a prompt from stdin", async () => {
    await run("chat", "--model", "pocket");
    expect(mesh.requests[0]).toMatchObject({ input: { value: { messages: [{ content: "from stdin" }] } } });
  });

  test("scale changes the replicas and nothing else", async () => {
    await run("deployments", "scale", "pocket", "5");
    expect(mesh.requests[0]).toMatchObject({
      replicas: 5,
      engine: EngineKind.SIM,
      contextTokens: 512,
      current: [],
      routing: { policy: "round-robin", weight: 3 },
    });
  });

  test("put a deployment with its routing, and show it", async () => {
    const flags =
      "--policy random --weight 9 --canary beta --shadow-percent 4 --hedge-after-ms 200 --hedge-percent 2 " +
      "--fallback m2 --fallback m3";
    const { out } = await run("deployments", "put", "d", "--model", "m", ...flags.split(" "));
    expect(mesh.requests[0]).toMatchObject({
      name: "d",
      routing: {
        policy: "random",
        weight: 9,
        canary: "beta",
        shadowPercent: 4,
        hedgeAfterMs: 200,
        hedgePercent: 2,
        fallbackModels: ["m2", "m3"],
      },
    });
    expect(out).toContain("random; weight 9; canary beta; shadow 4 %; hedge after 200 ms, at most 2 %; else m2, m3\n");
    const put = await run("deployments", "put", "d", "--model", "m", "--fallback", "m2", "--json");
    expect(JSON.parse(put.out)).toMatchObject({ routing: { policy: "", fallbackModels: ["m2"] } });
    await run("deployments", "put", "d", "--model", "m");
    expect(mesh.requests[2]).not.toHaveProperty("routing");
  });

  test("create a model with an exact price", async () => {
    await run(
      "models",
      "create",
      "m",
      "--source",
      "file:///m.gguf",
      "--prompt",
      "0.015",
      "--completion",
      "3",
      "--alias",
      "x",
    );
    expect(mesh.requests[0]).toMatchObject({
      aliases: ["x"],
      price: { promptNanosPerToken: 15n, cachedNanosPerToken: 15n, completionNanosPerToken: 3_000n },
    });
  });

  test("find a node by its name", async () => {
    const { out } = await run("nodes", "cordon", "local-1");
    expect(mesh.requests[0]).toMatchObject({ nodeId: "node_9", cordoned: true });
    expect(out).toBe("Node local-1 is cordoned: no new replicas come to it.\n");
  });

  test("print a new key's secret alone", async () => {
    expect((await run("keys", "create", "ci")).out).toBe("hm_abc_def\n");
  });
});

describe("mistakes", () => {
  test.each([
    [["nope"], 'There is no command "nope"'],
    [["models", "nope"], 'There is no command "models nope"'],
    [["models", "get"], "NAME is missing"],
    [["models", "list", "--nope"], "--nope"],
    [["models", "create", "m"], "--source SOURCE is required"],
    [["models", "create", "m", "--source", "s", "--prompt", "1"], "--prompt USD and --completion USD"],
    [["models", "set-price", "m", "--prompt", "0.0001", "--completion", "1"], '--prompt is "0.0001"'],
    [["deployments", "put", "d", "--model", "m", "--engine", "cuda"], "must be one of llama.cpp, sim"],
    [["deployments", "scale", "d", "many"], 'REPLICAS is "many"'],
    [["usage", "--by", "model,colour"], '--by has "colour"'],
    [["usage", "--from", "yesterday"], '--from is "yesterday"'],
    [["nodes", "list", "--control-url", "localhost:8081"], '--control-url is "localhost:8081"'],
    [["chat", "--temperature", "9", "hi"], '--temperature is "9"; it must be a number from 0 to 2'],
  ])("%j exits 2 and says what is wrong", async (words, message) => {
    const { code, err, out } = await run(...words);
    expect(code).toBe(2);
    expect(err).toContain(message);
    expect(out).toBe("");
  });

  test.each([
    [["nope"], "See `helixmesh --help`."],
    [["--nope"], "See `helixmesh --help`."],
    [["models", "nope"], "See `helixmesh models --help`."],
  ])("%j points to help that exists", async (words, advice) => {
    expect((await run(...words)).err).toContain(`${advice}\n`);
  });

  test("without a mesh say how to start or name one", async () => {
    const { code, err } = await runIn({}, "nodes", "list", "--state", join(state, "elsewhere"));
    expect(code).toBe(2);
    expect(err).toContain("`helixmesh up`");
  });

  test("in a key file never show its content", async () => {
    writeFileSync(join(state, "other"), "a secret of another kind");
    const { code, err } = await run("nodes", "list", "--operator-key-file", join(state, "other"));
    expect(code).toBe(2);
    expect(err).toContain("holds no key");
    expect(err).not.toContain("secret of another kind");
  });
});

test("--version prints the version alone", async () => {
  const { code, out } = await run("--version");
  expect(code).toBe(0);
  expect(out).toMatch(/^\d+\.\d+\.\d+\n$/);
});

describe("failures", () => {
  test("exit 1 with the server's message and field, and no stack", async () => {
    const { code, err } = await run("models", "get", "nope");
    expect(code).toBe(1);
    expect(err).toBe("helixmesh: No model is called nope. Field: name.\n");
  });

  test("keep the server's clause and the field apart", async () => {
    const { err } = await run("models", "delete", "used");
    expect(err).toBe('helixmesh: model "used" is used by deployments: d; delete them first. Field: name.\n');
  });

  test("of a connection name the address", async () => {
    const { code, err } = await run("nodes", "list", "--control-url", "http://127.0.0.1:1");
    expect(code).toBe(1);
    expect(err).toContain("The control plane at http://127.0.0.1:1 does not answer");
  });
});

describe("--help", () => {
  test("lists every command", async () => {
    const { code, out } = await run("--help");
    expect(code).toBe(0);
    for (const command of commands) expect(out).toContain(command.path.join(" "));
  });

  test.each(commands.map((command) => [command]))("of $path names every argument and option", async (command) => {
    const { code, out } = await run(...command.path, "--help");
    expect(code).toBe(0);
    for (const option of command.options ?? []) expect(out).toContain(`--${option.name}`);
    for (const positional of command.positionals ?? []) expect(out).toContain(positional.doc);
  });

  test("of a group lists its commands", async () => {
    const { code, out } = await run("keys", "--help");
    expect(code).toBe(0);
    expect(out).toContain("keys revoke KEY_ID");
  });
});
