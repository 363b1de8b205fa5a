import type { UnknownField } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { type Usage, type UsageRecord, UsageRecordSchema, UsageSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ProtoWriter, lengthDelimitedBytes, stringBytes, uintBytes } from "#kernel/proto-writer.ts";

type Times = "startedAtMs" | "durationMs" | "ttftMs";

/** A UsageRecord, or what there is to make one of. Times are whole numbers. */
export type UsageFields = Omit<UsageRecord, "$typeName" | "$unknown" | "usage" | Times> & {
  readonly usage?: Pick<Usage, "promptTokens" | "cachedTokens" | "completionTokens"> | undefined;
} & { readonly [T in Times]: number | bigint };

const field = UsageRecordSchema.field;
const usageField = UsageSchema.field;
/** https://protobuf.dev/programming-guides/encoding/#maps */
const mapKey = 1;
const mapValue = 2;

const writer = new ProtoWriter();

/** The record, encoded by hand since there is one for every call. Lent until the next call of this function. */
export function encodeUsageRecord(record: UsageFields): Uint8Array {
  writer.clear();
  writer.string(field.callId.number, record.callId);
  writer.string(field.keyId.number, record.keyId);
  writer.string(field.projectId.number, record.projectId);
  writer.string(field.model.number, record.model);
  writer.string(field.deployment.number, record.deployment);
  writer.string(field.nodeId.number, record.nodeId);
  writer.string(field.door.number, record.door);
  writer.uint(field.outcome.number, record.outcome);
  writer.uint(field.reason.number, record.reason);
  if (record.usage) writeUsage(record.usage);
  writer.uint(field.startedAtMs.number, Number(record.startedAtMs));
  writer.uint(field.durationMs.number, Number(record.durationMs));
  writer.uint(field.ttftMs.number, Number(record.ttftMs));
  for (const key in record.labels) writeLabel(key, record.labels[key] ?? "");
  writer.uint(field.attempts.number, record.attempts);
  return writer.bytes.subarray(0, writer.length);
}

function writeUsage({ promptTokens, cachedTokens, completionTokens }: NonNullable<UsageFields["usage"]>): void {
  writer.lengthDelimited(
    field.usage.number,
    uintBytes(promptTokens) + uintBytes(cachedTokens) + uintBytes(completionTokens),
  );
  writer.uint(usageField.promptTokens.number, promptTokens);
  writer.uint(usageField.cachedTokens.number, cachedTokens);
  writer.uint(usageField.completionTokens.number, completionTokens);
}

function writeLabel(key: string, value: string): void {
  writer.lengthDelimited(field.labels.number, stringBytes(key) + stringBytes(value));
  writer.string(mapKey, key);
  writer.string(mapValue, value);
}

/**
 * Encoded messages as the repeated field `no` (under 16) of a message: protobuf writes them back as they are. It gets one
 * field that holds all, the tags of the others included, because it would take its time for each.
 */
export function encodedMessages(no: number, messages: readonly Uint8Array[]): UnknownField[] {
  if (messages.length === 0) return [];
  const room = messages.reduce((sum, { length }) => sum + lengthDelimitedBytes(length), 0);
  const framed = new ProtoWriter(room);
  for (const message of messages) framed.raw(no, message);
  // Behind the first tag, which protobuf writes itself.
  return [{ no, wireType: WireType.LengthDelimited, data: framed.bytes.subarray(1, framed.length) }];
}
