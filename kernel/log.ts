import { pino } from "pino";
import { standardError } from "#kernel/standard-error.ts";

export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";

/** Structured log: one JSON line on stderr for each message. `fields.error` is rendered with its stack and causes. */
export interface Logger {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
  /** A logger that adds `fields` to each of its lines. */
  child(fields: Record<string, unknown>): Logger;
}

export interface LoggerOptions {
  readonly service: string;
  readonly level: LogLevel;
  /** Where lines go; stderr unless given. */
  readonly write?: (line: string) => void;
}

/** Names whose values never reach a log: alone (`key`) or as the last word of a compound (`apiKey`, `link_token`). */
const redactedName = /(^|[_\-.])(key|secret|token|password|authorization|prompt|messages)$/i;
const redactedCompound = /[a-z0-9](Key|Secret|Token|Password|Authorization|Prompt|Messages)$/;
/** Names of fields come from the code, so there are few; whoever makes them up pays for each. */
const mostNames = 1_000;
const secretNames = new Map<string, boolean>();
const longestText = 8_192;
const deepestField = 6;

export function createLogger(options: LoggerOptions): Logger {
  const destination = options.write ? { write: options.write } : standardError();
  const sink: Sink = pino(
    {
      level: options.level,
      base: { service: options.service, pid: process.pid },
      messageKey: "message",
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
  return wrap(sink, {});
}

export const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLogger,
};

type Sink = pino.Logger<never, boolean>;

function wrap(sink: Sink, own: Record<string, unknown>): Logger {
  function line(level: "debug" | "info" | "warn" | "error", message: string, fields?: Record<string, unknown>): void {
    if (!sink.isLevelEnabled(level)) return;
    sink[level]({ ...own, ...(fields && renderTopFields(fields)) }, message);
  }
  return {
    debug: (message, fields) => line("debug", message, fields),
    info: (message, fields) => line("info", message, fields),
    warn: (message, fields) => line("warn", message, fields),
    error: (message, fields) => line("error", message, fields),
    child: (fields) => wrap(sink, { ...own, ...renderTopFields(fields) }),
  };
}

/** Names that each line has from us; a field of that name would stand twice in the JSON. */
const reservedNames = new Set(["level", "time", "service", "pid", "message"]);

function renderTopFields(fields: Record<string, unknown>): Record<string, unknown> {
  const rendered = renderFields(fields, 0);
  for (const name of Object.keys(rendered)) {
    if (!reservedNames.has(name)) continue;
    rendered[`${name}_`] = rendered[name];
    delete rendered[name];
  }
  return rendered;
}

function renderFields(fields: object, depth: number): Record<string, unknown> {
  const rendered: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields)) {
    rendered[name] = isSecret(name) && value !== undefined ? "[redacted]" : renderValue(value, depth + 1);
  }
  return rendered;
}

function isSecret(name: string): boolean {
  const known = secretNames.get(name);
  if (known !== undefined) return known;
  const secret = redactedName.test(name) || redactedCompound.test(name);
  if (secretNames.size < mostNames) secretNames.set(name, secret);
  return secret;
}

function renderValue(value: unknown, depth: number): unknown {
  if (typeof value === "string") return shorten(value);
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Error) return renderError(value, depth);
  if (typeof value !== "object" || value === null) return value;
  if (depth >= deepestField) return "[too deep]";
  if (value instanceof Uint8Array) return `[${value.length} bytes]`;
  if (value instanceof Date) return value.toJSON();
  if (Array.isArray(value)) return value.slice(0, 64).map((item) => renderValue(item, depth + 1));
  return renderFields(value, depth);
}

/** Own enumerable properties come along (codes, paths), redacted like any field. */
function renderError(error: Error, depth: number): Record<string, unknown> {
  const cause = error.cause;
  return {
    ...(depth < deepestField && renderFields(error, depth)),
    name: error.name,
    message: shorten(error.message),
    stack: shorten(error.stack ?? ""),
    ...(cause !== undefined && { cause: depth < deepestField ? renderValue(cause, depth + 1) : "[too deep]" }),
  };
}

function shorten(text: string): string {
  return text.length <= longestText ? text : `${text.slice(0, longestText)}… [${text.length} characters]`;
}
