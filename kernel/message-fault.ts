import { type DescField, type DescMessage, type JsonValue, fromJson } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { parseJson } from "#kernel/json-body.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { nearestName } from "#kernel/nearest-name.ts";

// protobuf-es says what is wrong with a message and not where. Here the message is read once more, slowly, for that.

interface Fault {
  /** Path of the field as the sender wrote it, such as `chat.messages[0].content`; empty for the message itself. */
  readonly path: string;
  readonly problem: string;
}

/** Why `bytes` are no message of `desc` in binary form; `error` is what the decoder said. */
export function binaryFault(desc: DescMessage, bytes: Uint8Array, error: unknown): MeshError {
  const fault = findBinaryMisfit(desc, bytes, new BinaryReader(bytes), bytes.length, "");
  return refusal(desc, "protobuf", fault ?? { path: "", problem: shorten(messageOf(error)) });
}

/** Why `bytes` are no message of `desc` in JSON form; `error` is what the decoder said. */
export function jsonFault(desc: DescMessage, bytes: Uint8Array, error: unknown): MeshError {
  let json: JsonValue;
  try {
    json = parseJson(bytes) as JsonValue;
  } catch (cause) {
    // No JSON at all, which says where.
    return MeshError.from(cause);
  }
  return refusal(desc, "JSON", findJsonMisfit(desc, json, "") ?? { path: "", problem: shorten(messageOf(error)) });
}

function refusal(desc: DescMessage, form: string, { path, problem }: Fault): MeshError {
  const where = path === "" ? "" : `${path}: `;
  const message = `The request is no valid ${desc.typeName} in ${form}: ${where}${problem}.`;
  return new MeshError(Reason.INVALID_REQUEST, message, { field: path });
}

const wireTypeNames = ["varint", "64-bit", "length-delimited", "start-group", "end-group", "32-bit"];

function findBinaryMisfit(
  desc: DescMessage,
  bytes: Uint8Array,
  reader: BinaryReader,
  end: number,
  path: string,
): Fault | undefined {
  const counts = new Map<number, number>();
  while (reader.pos < end) {
    const at = reader.pos;
    let here = path;
    try {
      const [number, wireType] = reader.tag();
      const field = desc.fields.find((candidate) => candidate.number === number);
      here = join(path, field ? field.name : `field number ${number}`);
      if (field && isRepeatedMessage(field)) {
        const index = counts.get(number) ?? 0;
        counts.set(number, index + 1);
        here += `[${index}]`;
      }
      if (wireType !== WireType.LengthDelimited) {
        reader.skip(wireType, number);
        if (!field || takes(field, wireType)) continue;
        return { path: here, problem: `has the ${wireTypeNames[wireType]} wire type at byte ${at}` };
      }
      const length = reader.uint32();
      if (length > end - reader.pos) {
        return {
          path: here,
          problem: `says at byte ${at} that it has ${length} bytes, but ${end - reader.pos} follow`,
        };
      }
      const start = reader.pos;
      const nested = field && messageOfField(field);
      const inside = nested && findBinaryMisfit(nested, bytes, reader, start + length, here);
      if (inside) return inside;
      reader.pos = start + length;
      if (field && isText(field) && !isUtf8(bytes.subarray(start, reader.pos))) {
        return { path: here, problem: `is no valid UTF-8 text (from byte ${start})` };
      }
      if (field && !takes(field, wireType)) {
        return { path: here, problem: `has the length-delimited wire type at byte ${at}` };
      }
    } catch (error) {
      return { path: here, problem: `${messageOf(error)} at byte ${at}` };
    }
    if (reader.pos > end) return { path: here, problem: `goes beyond the end of its message, at byte ${at}` };
  }
  return undefined;
}

function messageOfField(field: DescField): DescMessage | undefined {
  if (field.fieldKind === "message") return field.message;
  return field.fieldKind === "list" && field.listKind === "message" ? field.message : undefined;
}

function isRepeatedMessage(field: DescField): boolean {
  return field.fieldKind === "list" && field.listKind === "message";
}

/** Types 9, 12: https://protobuf.dev/reference/protobuf/google.protobuf/#field-descriptor-proto, TYPE_STRING, TYPE_BYTES. */
const textType = 9;
const lengthDelimitedScalars = new Set([textType, 12]);

function isText(field: DescField): boolean {
  return (field.fieldKind === "scalar" || field.fieldKind === "list") && Number(field.scalar) === textType;
}

/** Whether a field is written with a wire type that is length-delimited or not; numbers of lists may be either. */
function takes(field: DescField, wireType: WireType): boolean {
  const isDelimited = wireType === WireType.LengthDelimited;
  switch (field.fieldKind) {
    case "message":
    case "map":
      return isDelimited;
    case "enum":
      return !isDelimited;
    case "scalar":
      return isDelimited === lengthDelimitedScalars.has(field.scalar);
    case "list":
      return isDelimited || (field.listKind !== "message" && !lengthDelimitedScalars.has(Number(field.scalar)));
  }
}

function isUtf8(bytes: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return true;
  } catch {
    // The answer itself; there is no more to know.
    return false;
  }
}

/** Each member is tried alone, so that what the decoder says of it belongs to its path. */
function findJsonMisfit(desc: DescMessage, json: JsonValue, path: string): Fault | undefined {
  const isPlain = !desc.typeName.startsWith("google.protobuf.");
  if (isPlain && !isObject(json)) return { path, problem: `must be a JSON object and is ${kindOf(json)}` };
  if (!isPlain || !isObject(json)) return tryAlone(desc, json, path);
  for (const [key, value] of Object.entries(json)) {
    const here = join(path, key);
    const field = desc.fields.find(({ jsonName, name }) => jsonName === key || name === key);
    if (!field) return { path: here, problem: unknownKey(desc, key) };
    const nested = messageOfField(field);
    const isList = field.fieldKind === "list" && Array.isArray(value);
    const inside = !nested
      ? undefined
      : isList
        ? value.map((item, index) => findJsonMisfit(nested, item, `${here}[${index}]`)).find((fault) => fault)
        : value === null || field.fieldKind === "list"
          ? undefined
          : findJsonMisfit(nested, value, here);
    const fault = inside ?? tryAlone(desc, { [key]: value }, here);
    if (fault) return fault;
  }
  return undefined;
}

function tryAlone(desc: DescMessage, json: JsonValue, path: string): Fault | undefined {
  try {
    fromJson(desc, json);
    return undefined;
  } catch (error) {
    return { path, problem: shorten(messageOf(error).replace(/^cannot decode (.*?) from JSON: /, expectation)) };
  }
}

/** The path says which field; of an enum the name is worth keeping. */
function expectation(_: string, what: string): string {
  return what.startsWith("enum ") ? `no value of ${what}: ` : "";
}

function unknownKey(desc: DescMessage, key: string): string {
  const names = desc.fields.map(({ jsonName }) => jsonName);
  const nearest = nearestName(key.slice(0, 64), names);
  const advice = nearest === undefined ? `there are ${names.join(", ")}` : `did you mean ${nearest}?`;
  return `${desc.name} has no such field; ${advice}`;
}

function isObject(json: JsonValue): json is { [key: string]: JsonValue } {
  return typeof json === "object" && json !== null && !Array.isArray(json);
}

function kindOf(json: JsonValue): string {
  if (json === null) return "null";
  return Array.isArray(json) ? "an array" : `a ${typeof json}`;
}

function join(path: string, name: string): string {
  const short = name.length <= 64 ? name : `${name.slice(0, 64)}…`;
  return path === "" ? short : `${path}.${short}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Values are quoted, and a value may be a whole prompt. */
function shorten(text: string): string {
  return text.length <= 200 ? text : `${text.slice(0, 200)}…`;
}
