import { resolve } from "node:path";
import { describe, expect, expectTypeOf, test } from "vitest";
import { type SettingsOf, defineSettings, loadSettings, setting, settingsTable } from "#kernel/settings.ts";

const declaration = defineSettings({
  name: setting.text({ env: "HELIXMESH_NAME", flag: "name", default: "one", min: 2, max: 5, doc: "A name." }),
  token: setting.text({ env: "HELIXMESH_TOKEN", flag: "token", default: undefined, secret: true, min: 4, doc: "Key." }),
  nodes: setting.integer({ env: "HELIXMESH_NODES", flag: "nodes", default: 1, min: 1, max: 9, doc: "How many." }),
  wait: setting.durationMs({ env: "HELIXMESH_WAIT", flag: "wait", default: 1_500, max: 60_000, doc: "How long." }),
  cors: setting.boolean({ env: "HELIXMESH_CORS", flag: "cors", default: true, doc: "Whether." }),
  engine: setting.choice({
    env: "HELIXMESH_ENGINE",
    flag: "engine",
    choices: ["sim", "llama-cpp"],
    default: "sim",
    doc: "Which.",
  }),
  listen: setting.hostPort({ env: "HELIXMESH_LISTEN", flag: "listen", default: "127.0.0.1:80", doc: "Where." }),
  state: setting.path({ env: "HELIXMESH_STATE", flag: "state-dir", default: ".helixmesh", doc: "Where to." }),
  origins: setting.list({ env: "HELIXMESH_ORIGINS", flag: "origins", default: [], max: 3, doc: "Who." }),
});

function load(argv: string[], env: Record<string, string> = {}) {
  return loadSettings(declaration, { argv, env, command: "helixmesh test" });
}

function values(argv: string[], env: Record<string, string> = {}): Record<string, unknown> {
  const loaded = load(argv, env);
  expect(loaded.kind).toBe("settings");
  return loaded.kind === "settings" ? loaded.settings : {};
}

function errors(argv: string[], env: Record<string, string> = {}): string[] {
  const loaded = load(argv, env);
  expect(loaded.kind).toBe("errors");
  return loaded.kind === "errors" ? loaded.errors : [];
}

test("have the declared types", () => {
  type Loaded = SettingsOf<typeof declaration>;
  expectTypeOf<Loaded["name"]>().toEqualTypeOf<string>();
  expectTypeOf<Loaded["token"]>().toEqualTypeOf<string | undefined>();
  expectTypeOf<Loaded["nodes"]>().toEqualTypeOf<number>();
  expectTypeOf<Loaded["cors"]>().toEqualTypeOf<boolean>();
  expectTypeOf<Loaded["engine"]>().toEqualTypeOf<"sim" | "llama-cpp">();
  expectTypeOf<Loaded["listen"]["port"]>().toEqualTypeOf<number>();
  expectTypeOf<Loaded["origins"]>().toEqualTypeOf<readonly string[]>();
});

test("are their defaults when nothing is given", () => {
  expect(values([])).toEqual({
    name: "one",
    token: undefined,
    nodes: 1,
    wait: 1_500,
    cors: true,
    engine: "sim",
    listen: { host: "127.0.0.1", port: 80 },
    state: resolve(".helixmesh"),
    origins: [],
  });
});

test("come from a flag before the environment, and an empty variable means unset", () => {
  const env = { HELIXMESH_NODES: "3", HELIXMESH_NAME: "", HELIXMESH_WAIT: "2m" };
  expect(values(["--nodes", "2"], { ...env, HELIXMESH_WAIT: "1m" })).toMatchObject({ nodes: 2, name: "one" });
  expect(values([], { ...env, HELIXMESH_WAIT: "1m" })).toMatchObject({ nodes: 3, wait: 60_000 });
});

test.each([
  [["--name", "two"], { name: "two" }],
  [["--name=two"], { name: "two" }],
  [["--no-cors"], { cors: false }],
  [["--cors"], { cors: true }],
  [["--cors=false"], { cors: false }],
  [["--wait=250ms"], { wait: 250 }],
  [["--wait=1.5s"], { wait: 1_500 }],
  [["--wait", "40"], { wait: 40 }],
  [["--listen=[::1]:0"], { listen: { host: "::1", port: 0 } }],
  [["--listen=:8080"], { listen: { host: "0.0.0.0", port: 8080 } }],
  [["--state-dir=/tmp/x"], { state: "/tmp/x" }],
  [["--origins=a, b,,c"], { origins: ["a", "b", "c"] }],
  [["--nodes=1", "--nodes=2"], { nodes: 2 }],
])("understand %j", (argv, expected) => {
  expect(values(argv)).toMatchObject(expected);
});

test.each([
  [["--nodse", "2"], "unknown flag --nodse; did you mean --nodes?"],
  [["--zzzzzzzz"], "unknown flag --zzzzzzzz; --help lists all flags"],
  [["--no-nodes"], "unknown flag --no-nodes; did you mean --nodes?"],
  [["--no-cors=1"], "--no-cors takes no value"],
  [["-x"], "unknown flag -x"],
  [["stray"], 'unexpected argument "stray"'],
  [["--name"], "--name needs a value: --name <text of 2 to 5 characters>"],
  [["--name", "--cors"], "--name needs a value"],
  [["--name=a"], '--name is "a"; it must be text of 2 to 5 characters'],
  [["--nodes=0"], '--nodes is "0"; it must be a whole number from 1 to 9'],
  [["--nodes=1.5"], '--nodes is "1.5"; it must be a whole number from 1 to 9'],
  [["--nodes="], '--nodes is ""; it must be a whole number'],
  [["--wait=soon"], '--wait is "soon"; it must be a duration such as 500ms, 2s or 5m from 0ms to 1m'],
  [["--wait=2m"], "from 0ms to 1m"],
  [["--cors=perhaps"], '--cors is "perhaps"; it must be true or false'],
  [["--engine=cuda"], '--engine is "cuda"; it must be sim or llama-cpp'],
  [["--listen=80"], '--listen is "80"; it must be host:port with a port of 0 to 65535'],
  [["--listen=a:70000"], "a port of 0 to 65535"],
  [["--state-dir="], '--state-dir is ""; it must be a path'],
  [["--origins=a,b,c,d"], "at most 3 comma-separated values"],
  [["--token=abc"], "--token is invalid; it must be text of 4 to 4096 characters"],
])("refuse %j", (argv, message) => {
  const found = errors(argv);
  expect(found[0]).toContain(message);
});

test("report all errors together, each by the name that was used", () => {
  expect(errors(["--nodes=0", "--bogus"], { HELIXMESH_CORS: "x" })).toEqual([
    expect.stringContaining("unknown flag --bogus"),
    expect.stringContaining("--nodes is"),
    expect.stringContaining('HELIXMESH_CORS is "x"'),
  ]);
});

describe("--help", () => {
  test.each([["--help"], ["-h"]])(
    "%s lists flag, environment, range, default and doc, and wins over errors",
    (flag) => {
      const loaded = load([flag, "--nodes=0"]);
      expect(loaded).toMatchObject({ kind: "help", text: expect.stringContaining("Usage: helixmesh test [flags]") });
      expect(loaded).toMatchObject({
        text: expect.stringMatching(
          /--nodes {2}HELIXMESH_NODES\n +How many\.\n +a whole number from 1 to 9; default 1\n/,
        ),
      });
      expect(loaded).toMatchObject({ text: expect.stringContaining("--[no-]cors") });
      expect(loaded).toMatchObject({ text: expect.stringContaining("default 1500ms") });
    },
  );

  test("does not print a secret's default", () => {
    const text = { env: "HELIXMESH_S", flag: "s", default: "hunter2", secret: true, doc: "Secret." };
    const secret = defineSettings({ s: setting.text(text) });
    const help = loadSettings(secret, { argv: ["--help"], env: {}, command: "x" });
    expect(JSON.stringify(help)).not.toContain("hunter2");
    expect(settingsTable(secret)).not.toContain("hunter2");
  });
});

test("make a table with a row each", () => {
  const lines = settingsTable(declaration).split("\n");
  expect(lines).toHaveLength(2 + Object.keys(declaration).length);
  expect(lines).toContain("| `--nodes` | `HELIXMESH_NODES` | 1 | a whole number from 1 to 9 | How many. |");
});

test("cannot share a name", () => {
  const one = setting.boolean({ env: "HELIXMESH_A", flag: "a", default: true, doc: "" });
  expect(() => defineSettings({ one, two: { ...one, env: "HELIXMESH_B" } })).toThrow("two settings are named a");
  expect(() => defineSettings({ one: { ...one, flag: "help" } })).toThrow("two settings are named help");
});
