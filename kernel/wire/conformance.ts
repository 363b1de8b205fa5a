/**
 * Runs the conformance suite of Connect, gRPC and gRPC-Web (connectrpc.com/conformance v1.0.5) against an RPC port:
 *
 *     go install connectrpc.com/conformance/cmd/connectconformance@v1.0.5
 *     node kernel/wire/conformance.ts [path of connectconformance] [further arguments of it]
 *
 * Prints its report and exits with its status. The protos come from the Go module and are compiled for the run.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type FileRegistry, type Message, create, createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { invariant } from "#kernel/invariant.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { startRpcServer } from "#kernel/rpc-server.ts";
import { addConformanceService } from "#kernel/wire/conformance-service.ts";

const moduleVersion = "connectrpc.com/conformance@v1.0.5";

const features = `
features:
  versions: [HTTP_VERSION_1, HTTP_VERSION_2]
  protocols: [PROTOCOL_CONNECT, PROTOCOL_GRPC, PROTOCOL_GRPC_WEB]
  codecs: [CODEC_PROTO, CODEC_JSON]
  compressions: [COMPRESSION_IDENTITY, COMPRESSION_GZIP, COMPRESSION_BR]
  supportsH2c: true
  supportsTls: true
  supportsTlsClientCerts: false
  supportsHalfDuplexBidiOverHttp1: false
`;

/** The suite wants RESOURCE_EXHAUSTED without details; ours carries an `ErrorDetail` that names the limit. */
const knownFailing = [
  "Server Message Size/**/request-exceeds-server-limit",
  "Server Message Size/**/first-request-exceeds-server-limit",
  "Server Message Size/**/subsequent-request-exceeds-server-limit",
];

/** What is read of server_compat.proto. */
interface ServerCompatRequest extends Message {
  readonly useTls: boolean;
  readonly messageReceiveLimit: number;
  readonly serverCreds?: { readonly cert: Uint8Array; readonly key: Uint8Array };
}

const [first = "connectconformance", ...rest] = process.argv.slice(2);
if (first === "--serve") await serve(rest[0] ?? "");
else process.exitCode = run(first, rest);

/** Compiles the protos and lets the suite start this program as often as it likes. */
function run(program: string, more: readonly string[]): number {
  const folder = mkdtempSync(join(tmpdir(), "helixmesh-conformance-"));
  try {
    const module = JSON.parse(
      execFileSync("go", ["mod", "download", "-json", moduleVersion], { encoding: "utf8" }),
    ) as {
      Dir: string;
    };
    const descriptors = join(folder, "descriptors.binpb");
    execFileSync("buf", ["build", join(module.Dir, "proto"), "-o", descriptors], { stdio: "inherit" });
    const config = join(folder, "features.yaml");
    writeFileSync(config, features);
    const server = [process.execPath, fileURLToPath(import.meta.url), "--serve", descriptors];
    const known = knownFailing.flatMap((pattern) => ["--known-failing", pattern]);
    const options = ["--mode", "server", "--conf", config, ...known, ...more];
    const { status } = spawnSync(program, [...options, "--", ...server], { stdio: "inherit" });
    return status ?? 1;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A server under test: its settings come on standard input, its address goes to standard output. */
async function serve(descriptors: string): Promise<void> {
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
  const settings = await readSettings(registry);
  const { serverCreds } = settings;
  const tls = settings.useTls && serverCreds;
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    tls: tls ? { cert: Buffer.from(tls.cert), key: Buffer.from(tls.key) } : undefined,
    routes: (router) => addConformanceService(router, registry),
    services: [],
    health: () => true,
    maxBodyBytes: settings.messageReceiveLimit || 4_000_000,
    logger: silentLogger,
    metrics: new Metrics("conformance"),
  });
  const responseType = registry.getMessage("connectrpc.conformance.v1.ServerCompatResponse");
  invariant(responseType, "the descriptors have the message");
  const response = create(responseType, {
    host: "127.0.0.1",
    port: server.port,
    ...(tls && { pemCert: tls.cert }),
  });
  const bytes = toBinary(responseType, response);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  process.stdout.write(Buffer.concat([length, bytes]));
  await once(process, "SIGTERM");
  await server.close();
}

async function readSettings(registry: FileRegistry): Promise<ServerCompatRequest> {
  const type = registry.getMessage("connectrpc.conformance.v1.ServerCompatRequest");
  invariant(type, "the descriptors have the message");
  let seen = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    seen = Buffer.concat([seen, chunk as Buffer]);
    if (seen.length < 4 || seen.length < 4 + seen.readUInt32BE(0)) continue;
    return fromBinary(type, seen.subarray(4, 4 + seen.readUInt32BE(0))) as ServerCompatRequest;
  }
  throw new Error("standard input ended before the settings had come");
}
