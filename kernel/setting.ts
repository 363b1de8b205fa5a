import { resolve } from "node:path";

export type Parsed<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly expected: string };

/** One declared setting. */
export interface Setting<T> {
  readonly env: string;
  readonly flag: string;
  readonly doc: string;
  readonly default: T;
  readonly defaultText: string | undefined;
  /** What values it takes, in words. */
  readonly range: string;
  /** Its value is never printed. */
  readonly secret: boolean;
  readonly isBoolean: boolean;
  readonly parse: (text: string) => Parsed<T>;
}

export type AnySetting = Setting<unknown>;

export interface HostPort {
  readonly host: string;
  /** 0 asks the system for a free port. */
  readonly port: number;
}

interface Common<D> {
  /** `HELIXMESH_…`. */
  readonly env: string;
  /** Kebab-case, without dashes in front. */
  readonly flag: string;
  /** `undefined`: the setting may be absent. */
  readonly default: D;
  readonly secret?: boolean;
  /** One sentence for `--help` and the README. */
  readonly doc: string;
}

interface Ranged<D> extends Common<D> {
  readonly min?: number;
  readonly max?: number;
}

/** The type of a setting with values `T` and a default `D`. */
type Of<T, D> = Setting<T | (undefined extends D ? undefined : never)>;

const fail = (expected: string): { readonly ok: false; readonly expected: string } => ({ ok: false, expected });

/** Builders, one for each kind of value. */
export const setting = {
  /** `min` and `max` bound the length. */
  text<D extends string | undefined>(options: Ranged<D>): Of<string, D> {
    const { min = 0, max = 4_096 } = options;
    const range = min > 0 ? `text of ${min} to ${max} characters` : `text of at most ${max} characters`;
    return build<string, D>(options, range, (text) =>
      text.length < min || text.length > max ? fail(range) : { ok: true, value: text },
    );
  },

  integer<D extends number | undefined>(options: Ranged<D>): Of<number, D> {
    const { min = Number.MIN_SAFE_INTEGER, max = Number.MAX_SAFE_INTEGER } = options;
    const range = rangeOf("a whole number", options.min, options.max, String);
    return build<number, D>(options, range, (text) => {
      const value = /^[+-]?[0-9][0-9_]*$/.test(text) ? Number(text.replaceAll("_", "")) : Number.NaN;
      return value >= min && value <= max ? { ok: true, value } : fail(range);
    });
  },

  /** Milliseconds; `250ms`, `1.5s`, `2m`, `1h` and `7d` are understood, a bare number is milliseconds. */
  durationMs<D extends number | undefined>(options: Ranged<D>): Of<number, D> {
    const { min = 0, max = Number.MAX_SAFE_INTEGER } = options;
    const range = rangeOf("a duration such as 500ms, 2s or 5m", min, options.max, durationText);
    const defaultText = options.default === undefined ? undefined : durationText(options.default);
    return build<number, D>(
      options,
      range,
      (text) => {
        const match = /^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?$/.exec(text);
        const value = match ? Number(match[1]) * (unitMs.get(match[2] ?? "ms") ?? 1) : Number.NaN;
        return value >= min && value <= max ? { ok: true, value } : fail(range);
      },
      defaultText,
    );
  },

  boolean<D extends boolean | undefined>(options: Common<D>): Of<boolean, D> {
    const parse = (text: string): Parsed<boolean> => {
      if (/^(true|1|yes|on)$/i.test(text)) return { ok: true, value: true };
      if (/^(false|0|no|off)$/i.test(text)) return { ok: true, value: false };
      return fail("true or false");
    };
    return { ...build<boolean, D>(options, "true or false", parse), isBoolean: true };
  },

  choice<const C extends string, const D extends C | undefined>(
    options: Common<D> & { readonly choices: readonly C[] },
  ): Of<C, D> {
    const range = options.choices.join(", ").replace(/, ([^,]*)$/, " or $1");
    return build<C, D>(options, range, (text) => {
      const value = options.choices.find((choice) => choice === text);
      return value === undefined ? fail(range) : { ok: true, value };
    });
  },

  /** `host:port`, `[::1]:port`, or `:port` for every interface. The default may be given as text. */
  hostPort<D extends HostPort | string | undefined>(options: Common<D>): Of<HostPort, D> {
    const range = "host:port with a port of 0 to 65535";
    const parse = (text: string): Parsed<HostPort> => {
      const match = /^(?:\[([0-9a-fA-F:.%]+)\]|([^:[\]\s]*)):([0-9]{1,5})$/.exec(text);
      const port = Number(match?.[3]);
      if (!match || port > 65_535) return fail(range);
      return { ok: true, value: { host: match[1] ?? (match[2] || "0.0.0.0"), port } };
    };
    const declared: HostPort | string | undefined = options.default;
    if (declared === undefined) return build<HostPort, D>({ ...options, default: undefined }, range, parse);
    const defaultText = typeof declared === "string" ? declared : hostPortText(declared);
    const parsed = parse(defaultText);
    if (!parsed.ok) throw new Error(`the default of --${options.flag} must be ${range}`);
    return build<HostPort, D>({ ...options, default: parsed.value }, range, parse, defaultText);
  },

  /** Made absolute against the working directory. */
  path<D extends string | undefined>(options: Common<D>): Of<string, D> {
    const parse = (text: string): Parsed<string> =>
      text === "" || text.includes("\0") ? fail("a path") : { ok: true, value: resolve(text) };
    const declared: string | undefined = options.default;
    const absolute = declared === undefined ? undefined : resolve(declared);
    return build<string, D>({ ...options, default: absolute }, "a path", parse, declared);
  },

  /** Comma-separated; empty parts are left out. `max` bounds the number of parts. */
  list<D extends readonly string[] | undefined>(options: Ranged<D>): Of<readonly string[], D> {
    const { min = 0, max = 1_000 } = options;
    const range = `${min > 0 ? `${min} to ${max}` : `at most ${max}`} comma-separated values`;
    const parse = (text: string): Parsed<readonly string[]> => {
      const parts = text.split(",").map((part) => part.trim());
      const value = parts.filter((part) => part !== "");
      return value.length < min || value.length > max ? fail(range) : { ok: true, value };
    };
    return build<readonly string[], D>(options, range, parse, options.default?.join(","));
  },
};

const unitMs = new Map([
  ["ms", 1],
  ["s", 1_000],
  ["m", 60_000],
  ["h", 3_600_000],
  ["d", 86_400_000],
]);

function build<T, D>(
  options: Common<T | D | undefined>,
  range: string,
  parse: (text: string) => Parsed<T>,
  defaultText?: string,
): Of<T, D> {
  const { env, flag, doc, secret = false } = options;
  if (!/^[A-Z][A-Z0-9_]*$/.test(env)) throw new Error(`setting ${flag}: ${env} is no environment name`);
  if (!/^[a-z][a-z0-9-]*$/.test(flag) || flag.startsWith("no-")) throw new Error(`${flag} is no flag name`);
  const text = defaultText ?? (options.default === undefined ? undefined : String(options.default));
  // `default` is of D by each builder's signature, and D is within T or undefined.
  const declared = options.default as T | (undefined extends D ? undefined : never);
  return { env, flag, doc, secret, range, defaultText: text, default: declared, isBoolean: false, parse };
}

function rangeOf(
  noun: string,
  min: number | undefined,
  max: number | undefined,
  show: (value: number) => string,
): string {
  if (min !== undefined && max !== undefined) return `${noun} from ${show(min)} to ${show(max)}`;
  if (min !== undefined) return `${noun} of at least ${show(min)}`;
  return max === undefined ? noun : `${noun} of at most ${show(max)}`;
}

function durationText(ms: number): string {
  if (ms === 0) return "0ms";
  for (const unit of ["d", "h", "m", "s"]) {
    const size = unitMs.get(unit) ?? 1;
    if (ms % size === 0) return `${ms / size}${unit}`;
  }
  return `${ms}ms`;
}

function hostPortText({ host, port }: HostPort): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
