import { systemClock } from "#kernel/clock.ts";
import { standardError } from "#kernel/standard-error.ts";

export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";

/** Structured log: one JSON line on stderr for each message. `fields.error` is rendered with its stack and causes. */
export interface Logger {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
  /** As `info` for a line that comes with every call: it writes one of its subject, with what is constant rendered once. */
  lines<T>(message: string, fields: LineFields<T>): (subject: T) => void;
  /** A logger that adds `fields` to each of its lines. */
  child(fields: Record<string, unknown>): Logger;
}

/** How each field of a line is read from what the line is about. */
export type LineFields<T> = Readonly<Record<string, (subject: T) => string | number | undefined>>;

export interface LoggerOptions {
  readonly service: string;
  readonly level: LogLevel;
  /** Where lines go; stderr unless given. */
  readonly write?: (line: string) => void;
}

/** Names whose values never reach a log: alone (`key`) or as the last word of a compound (`apiKey`, `link_token`). */
const redactedName = /(^|[_\-.])(key|secret|token|password|authorization|prompt|messages)$/i;
const redactedCompound = /[a-z0-9](Key|Secret|Token|Password|Authorization|Prompt|Messages)$/;
const redacted = "[redacted]";
/** Names that each line has from us; a field of that name would stand twice in the JSON. */
const reservedNames = new Set(["level", "time", "service", "pid", "message"]);
const longestText = 8_192;
const deepestField = 6;
const severities = { debug: 20, info: 30, warn: 40, error: 50, silent: Number.POSITIVE_INFINITY } as const;
type Severity = Exclude<LogLevel, "silent">;

type Sink = (severity: Severity, content: string) => void;

export function createLogger(options: LoggerOptions): Logger {
  const write = options.write ?? standardError();
  const source = `","service":${JSON.stringify(options.service)},"pid":${process.pid}`;
  const sink: Sink = (severity, content) => {
    const line = `{"level":"${severity}","time":"${timeText(systemClock.nowMs())}${source}${content}}\n`;
    write(line, severities[severity] >= severities.warn);
  };
  return wrap(sink, severities[options.level], []);
}

export const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  lines: () => () => {},
  child: () => silentLogger,
};

/** A field as it stands in a line, with its comma. */
interface OwnField {
  readonly name: string;
  readonly text: string;
}

/**
 * Lines are put together as text: a call writes one, and an object for a general serializer would cost several times as
 * much as the line.
 */
function wrap(sink: Sink, least: number, own: readonly OwnField[]): Logger {
  function line(severity: Severity, message: string, fields: Record<string, unknown> = {}): void {
    if (severities[severity] < least) return;
    let content = "";
    for (const { name, text } of own) if (!Object.hasOwn(fields, name)) content += text;
    for (const name of Object.keys(fields)) content += fieldText(name, fields[name]);
    sink(severity, `${content},"message":${quoted(message)}`);
  }
  return {
    debug: (message, fields) => line("debug", message, fields),
    info: (message, fields) => line("info", message, fields),
    warn: (message, fields) => line("warn", message, fields),
    error: (message, fields) => line("error", message, fields),
    lines<T>(message: string, fields: LineFields<T>) {
      if (severities.info < least) return () => {};
      const kept = own.filter(({ name }) => !Object.hasOwn(fields, name));
      const start = kept.map(({ text }) => text).join("");
      const columns = Object.entries(fields).map(([name, read]) => new Column(name, read));
      const end = `,"message":${quoted(message)}`;
      return (subject: T) => {
        let content = start;
        for (const column of columns) content += column.text(subject);
        sink("info", content + end);
      };
    },
    child(fields) {
      const kept = own.filter(({ name }) => !Object.hasOwn(fields, name));
      const added = Object.entries(fields).map(([name, value]) => ({ name, text: fieldText(name, value) }));
      return wrap(sink, least, [...kept, ...added]);
    },
  };
}

/** Longer values are not kept for the next line. */
const mostKept = 64;

/** One field of the lines of a kind. Most values are those of the line before: a model, a node, a small count. */
class Column<T> {
  readonly #name: string;
  readonly #read: (subject: T) => string | number | undefined;
  #value: string | number | undefined;
  #text = "";

  constructor(name: string, read: (subject: T) => string | number | undefined) {
    this.#name = name;
    this.#read = read;
  }

  text(subject: T): string {
    const value = this.#read(subject);
    if (value === this.#value) return this.#text;
    const text = fieldText(this.#name, value);
    if (typeof value === "string" && value.length > mostKept) return text;
    this.#value = value;
    return (this.#text = text);
  }
}

interface FieldName {
  readonly secret: boolean;
  /** `,"name":` */
  readonly text: string;
}

/** Names of fields come from the code, so there are few; whoever makes them up pays for each. */
const mostNames = 1_000;
const fieldNames = new Map<string, FieldName>();

function fieldName(name: string): FieldName {
  const known = fieldNames.get(name);
  if (known) return known;
  const text = `,${JSON.stringify(reservedNames.has(name) ? `${name}_` : name)}:`;
  const made = { secret: isSecret(name), text };
  if (fieldNames.size < mostNames) fieldNames.set(name, made);
  return made;
}

/** Empty for what JSON cannot hold. */
function fieldText(name: string, value: unknown): string {
  if (value === undefined) return "";
  const { secret, text } = fieldName(name);
  if (secret) return `${text}"${redacted}"`;
  if (typeof value === "string") return text + quoted(shorten(value));
  if (typeof value === "number") return Number.isFinite(value) ? text + value : `${text}null`;
  // Undefined for a function or a symbol, whatever its type says.
  const json: string | undefined = JSON.stringify(renderValue(value, 1));
  return json === undefined ? "" : text + json;
}

function quoted(text: string): string {
  return /^[ !#-[\]-~]*$/.test(text) ? `"${text}"` : JSON.stringify(text);
}

let lastMs = 0;
let lastTime = "";

/** At thousands of lines a second most have the time of the one before. */
function timeText(nowMs: number): string {
  if (nowMs === lastMs) return lastTime;
  lastMs = nowMs;
  return (lastTime = new Date(nowMs).toISOString());
}

function renderFields(fields: object, depth: number): Record<string, unknown> {
  const rendered: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields)) {
    rendered[name] = isSecret(name) && value !== undefined ? redacted : renderValue(value, depth + 1);
  }
  return rendered;
}

function isSecret(name: string): boolean {
  return redactedName.test(name) || redactedCompound.test(name);
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
