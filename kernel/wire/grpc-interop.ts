/**
 * Runs gRPC's interop cases with the official Go client and server (google.golang.org/grpc/interop), plain and over TLS:
 * their client against an RPC port of ours, once served on the general path and once by hot methods, and our client
 * against their server and against our own.
 *
 *     GOBIN=/tmp/interop go install google.golang.org/grpc/interop/{client,server}@latest
 *     node kernel/wire/grpc-interop.ts /tmp/interop
 *
 * Prints a table and what failing cases said; exits with 1 when one failed. Left out are the cases that need Google's
 * cloud or its load reports (*_creds, *_credentials, oauth2_auth_token, orca_*). The Go client has none for compression.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type DescService, createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { sleep, systemClock } from "#kernel/clock.ts";
import { invariant } from "#kernel/invariant.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { type RpcServer, startRpcServer } from "#kernel/rpc-server.ts";
import { testCertificate, testKey } from "#kernel/test-certificate.ts";
import { interopCases } from "#kernel/wire/grpc-interop-cases.ts";
import { addInteropService, hotInteropMethods } from "#kernel/wire/grpc-interop-service.ts";
import { Wire, connectWire } from "#kernel/wire/index.ts";

/** Of the Go client, with what each needs besides its name. */
const goCases: readonly (readonly [string, ...string[]])[] = [
  ["empty_unary"],
  ["large_unary"],
  ["client_streaming"],
  ["server_streaming"],
  ["ping_pong"],
  ["empty_stream"],
  ["timeout_on_sleeping_server"],
  ["cancel_after_begin"],
  ["cancel_after_first_response"],
  ["status_code_and_message"],
  ["special_status_message"],
  ["custom_metadata"],
  ["unimplemented_method"],
  ["unimplemented_service"],
  ["pick_first_unary"],
  ["rpc_soak", "--soak_iterations=500", "--soak_num_threads=10"],
  ["channel_soak", "--soak_iterations=100", "--soak_num_threads=4"],
];
/** For machines that are busy; what is measured here is not speed. */
const soakFlags = ["--soak_overall_timeout_seconds=60", "--soak_per_iteration_max_acceptable_latency_ms=10000"];

const caseTimeoutMs = 90_000;

type Results = Map<string, string[]>;
const failures: string[] = [];

const [programs = "."] = parseArgs({ allowPositionals: true }).positionals;
const folder = mkdtempSync(join(tmpdir(), "helixmesh-interop-"));
try {
  const service = compile();
  const certificate = join(folder, "certificate.pem");
  const key = join(folder, "key.pem");
  writeFileSync(certificate, testCertificate);
  writeFileSync(key, testKey);
  const theirs: Results = new Map();
  const ours: Results = new Map();
  for (const secure of [false, true]) {
    for (const hot of [false, true]) {
      const server = await serve(service, secure, hot);
      await theirClient(theirs, server.port, secure ? certificate : undefined);
      await ourClient(ours, service, server.port, secure);
      await server.close();
    }
    const { process: server, port } = await theirServer(secure ? { certificate, key } : undefined);
    await ourClient(ours, service, port, secure);
    server.kill();
  }
  print("Go's client against", ["general", "hot", "general, TLS", "hot, TLS"], theirs);
  print("Our client against", ["general", "hot", "Go", "general, TLS", "hot, TLS", "Go, TLS"], ours);
  for (const failure of failures) console.log(`\n${failure}`);
  process.exitCode = failures.length === 0 ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true });
}

function compile(): DescService {
  const descriptors = join(folder, "descriptors.binpb");
  const proto = join(import.meta.dirname, "grpc-interop.proto");
  const buf = join(import.meta.dirname, "../../node_modules/.bin/buf");
  execFileSync(buf, ["build", `${proto}#include_package_files=false`, "-o", descriptors], {
    stdio: "inherit",
  });
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
  const service = registry.getService("grpc.testing.TestService");
  invariant(service, "the descriptors have the service");
  return service;
}

function serve(service: DescService, secure: boolean, hot: boolean): Promise<RpcServer> {
  return startRpcServer({
    host: "127.0.0.1",
    port: 0,
    ...(secure && { tls: { cert: Buffer.from(testCertificate), key: Buffer.from(testKey) } }),
    ...(hot && { hot: hotInteropMethods(service) }),
    routes: (router) => addInteropService(router, service),
    services: [],
    health: () => true,
    maxBodyBytes: 4_000_000,
    logger: silentLogger,
    metrics: new Metrics("interop"),
  });
}

async function theirClient(results: Results, port: number, certificate: string | undefined): Promise<void> {
  const tls = certificate ? ["--use_tls", "--use_test_ca", `--ca_file=${certificate}`] : [];
  const target = ["--server_host=localhost", `--server_port=${port}`, ...tls, ...soakFlags];
  for (const [name, ...flags] of goCases) {
    await record(results, name, `Go's client, ${name}`, async () => {
      const { code, output } = await run(join(programs, "client"), [...target, `--test_case=${name}`, ...flags]);
      if (code !== 0) throw new Error(`exit status ${code}\n${output}`);
    });
  }
}

function run(program: string, args: readonly string[]): Promise<{ readonly code: number; readonly output: string }> {
  return new Promise((resolve) => {
    execFile(program, args, { timeout: caseTimeoutMs }, (error, stdout, stderr) =>
      resolve({ code: error ? 1 : 0, output: `${error?.message ?? ""}\n${stdout}${stderr}`.slice(-2_000) }),
    );
  });
}

async function ourClient(results: Results, service: DescService, port: number, secure: boolean): Promise<void> {
  const wire = new Wire({ clock: systemClock });
  const tls = secure ? { ca: testCertificate, servername: "localhost" } : undefined;
  for (const [name, runCase] of interopCases) {
    const connection = await connectWire(wire, { host: "127.0.0.1", port, tls });
    await record(results, name, `our client, ${name}`, async () => {
      const over = new AbortController();
      const late = sleep(systemClock, caseTimeoutMs, over.signal).then(() => Promise.reject(new Error("too slow")));
      await Promise.race([runCase(connection, service), late]).finally(() => {
        late.catch(() => {});
        over.abort();
      });
    });
    connection.destroy();
  }
}

/** Resolves when it accepts connections. */
async function theirServer(
  files: { readonly certificate: string; readonly key: string } | undefined,
): Promise<{ readonly process: ChildProcess; readonly port: number }> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, "close");
  const tls = files ? ["--use_tls", `--tls_cert_file=${files.certificate}`, `--tls_key_file=${files.key}`] : [];
  const process = spawn(join(programs, "server"), [`--port=${port}`, ...tls], { stdio: "ignore" });
  const tlsOptions = files ? { ca: testCertificate, servername: "localhost" } : undefined;
  for (let attempt = 0; ; attempt++) {
    try {
      const connection = await connectWire(new Wire({ clock: systemClock }), {
        host: "127.0.0.1",
        port,
        tls: tlsOptions,
      });
      connection.destroy();
      return { process, port };
    } catch (error) {
      if (attempt === 100) throw error;
      await sleep(systemClock, 100);
    }
  }
}

async function record(results: Results, name: string, what: string, test: () => Promise<void>): Promise<void> {
  const row = results.get(name) ?? [];
  results.set(name, row);
  try {
    await test();
    row.push("pass");
  } catch (error) {
    row.push("FAIL");
    failures.push(`${what}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function print(title: string, columns: readonly string[], results: Results): void {
  const line = (first: string, rest: readonly string[]) =>
    console.log(first.padEnd(30) + rest.map((cell) => cell.padEnd(14)).join(""));
  console.log("");
  line(title, columns);
  for (const [name, row] of results) line(name, row);
  const all = [...results.values()].flat();
  console.log(`${all.filter((result) => result === "pass").length} of ${all.length} pass`);
}
