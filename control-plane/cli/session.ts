import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { type DescMessage, type DescService, type MessageShape, toJson } from "@bufbuild/protobuf";
import { type Client, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { parseApiKey } from "#kernel/api-key.ts";
import { type Input, UsageError } from "./command.ts";
import type { Terminal } from "./terminal.ts";

/** Which of the two servers a command talks to. */
type Peer = "control plane" | "router";

interface Address {
  readonly peer: Peer;
  readonly url: string;
  readonly keyFile: string;
  readonly key: string;
}

const projectRoot = resolve(import.meta.dirname, "../..");
const callTimeoutMs = 30_000;

/** One run of the CLI: where the mesh is, how to speak to it, how to print. */
export class Session {
  readonly terminal: Terminal;
  readonly json: boolean;
  /** The server last spoken to, for the error message. */
  address: Address | undefined;
  readonly #input: Input;
  readonly #connections = new Map<string, Http2SessionManager>();

  constructor(input: Input, terminal: Terminal) {
    this.#input = input;
    this.terminal = terminal;
    this.json = input.flag("json");
  }

  /** A client of the control plane with an operator's key. */
  control<Service extends DescService>(service: Service): Client<Service> {
    return this.#client(service, "control plane", callTimeoutMs);
  }

  /** A client of a router with an inference key; a generation takes as long as it takes. */
  router<Service extends DescService>(service: Service): Client<Service> {
    return this.#client(service, "router", undefined);
  }

  /** Prints one message: as JSON, or as `text` says. */
  print<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>, text: () => string): void {
    if (this.json) this.#printJson(messageJson(schema, message));
    else this.terminal.out(text());
  }

  /** Prints a list: as a JSON array, or as `text` says. */
  printList<Desc extends DescMessage>(schema: Desc, messages: readonly MessageShape<Desc>[], text: () => string): void {
    if (this.json) this.#printJson(messages.map((message) => messageJson(schema, message)));
    else this.terminal.out(text());
  }

  /** Says that something was done; `fact` is the JSON form of the same. */
  confirm(text: string, fact: Readonly<Record<string, string | number | boolean>>): void {
    if (this.json) this.#printJson(fact);
    else this.terminal.out(`${text}\n`);
  }

  /** An open HTTP/2 connection would keep the process alive. */
  close(): void {
    for (const connection of this.#connections.values()) connection.abort();
  }

  #printJson(value: unknown): void {
    this.terminal.out(`${JSON.stringify(value, undefined, 2)}\n`);
  }

  #client<Service extends DescService>(service: Service, peer: Peer, timeoutMs: number | undefined): Client<Service> {
    const address = this.#resolve(peer);
    this.address = address;
    const connection = this.#connections.get(address.url) ?? new Http2SessionManager(address.url);
    this.#connections.set(address.url, connection);
    const authorize: Interceptor = (next) => (request) => {
      request.header.set("authorization", `Bearer ${address.key}`);
      return next(request);
    };
    const transport = createGrpcTransport({
      baseUrl: address.url,
      sessionManager: connection,
      interceptors: [authorize],
      ...(timeoutMs === undefined ? {} : { defaultTimeoutMs: timeoutMs }),
    });
    return createClient(service, transport);
  }

  #resolve(peer: Peer): Address {
    const state = resolve(this.#setting("state", "HELIXMESH_STATE_DIR") ?? join(projectRoot, ".helixmesh"));
    const [urlFlag, urlEnv] =
      peer === "router" ? ["router-url", "HELIXMESH_ROUTER_URL"] : ["control-url", "HELIXMESH_CONTROL_URL"];
    const url = this.#setting(urlFlag, urlEnv) ?? urlOfRunningMesh(state, peer);
    if (url === undefined) {
      throw new UsageError(
        `No mesh runs with the state folder ${state}, and no --${urlFlag} (${urlEnv}) is given. Start one with ` +
          `\`helixmesh up\`, name its folder with --state, or name the ${peer} with --${urlFlag}.`,
      );
    }
    checkUrl(urlFlag, url);
    const [keyFlag, keyEnv, name] =
      peer === "router"
        ? ["key-file", "HELIXMESH_KEY_FILE", "key"]
        : ["operator-key-file", "HELIXMESH_OPERATOR_KEY_FILE", "operator-key"];
    const keyFile = resolve(this.#setting(keyFlag, keyEnv) ?? join(state, name));
    return { peer, url, keyFile, key: readKey(keyFile, keyFlag, keyEnv) };
  }

  /** An empty environment variable counts as unset. */
  #setting(flag: string, env: string): string | undefined {
    return this.#input.text(flag) ?? (this.terminal.env[env] || undefined);
  }
}

function messageJson<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): unknown {
  // Zeros are facts here: "0 failed calls" must not read like "not asked".
  return toJson(schema, message, { alwaysEmitImplicit: true });
}

function urlOfRunningMesh(state: string, peer: Peer): string | undefined {
  let text: string;
  try {
    text = readFileSync(join(state, "run.json"), "utf8");
  } catch {
    return undefined; // No mesh runs there; the caller says what to do.
  }
  const run: unknown = JSON.parse(text);
  const entry = property(run, peer === "router" ? "router" : "controlPlane");
  const url = property(entry, "url");
  return typeof url === "string" ? url : undefined;
}

function property(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

function checkUrl(flag: string, url: string): void {
  const parsed = URL.parse(url);
  if (!parsed || !/^https?:$/.test(parsed.protocol)) {
    throw new UsageError(`--${flag} is "${url}"; it must be a URL such as http://127.0.0.1:8081.`);
  }
}

function readKey(file: string, flag: string, env: string): string {
  let key: string;
  try {
    key = readFileSync(file, "utf8").trim();
  } catch (error) {
    const why =
      error instanceof Error && "code" in error && error.code === "ENOENT" ? "does not exist" : "cannot be read";
    throw new UsageError(`The key file ${file} ${why}. Name another with --${flag} (${env}).`, { cause: error });
  }
  // Checked here because what is in the file must not end up in an error message.
  if (!parseApiKey(key)) throw new UsageError(`The file ${file} holds no key. Name another with --${flag} (${env}).`);
  return key;
}
