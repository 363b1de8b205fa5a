import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { ReportUsageRequestSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Outcome, UsageRecordSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { encodeUsageRecord, encodedMessages } from "#kernel/usage-record.ts";

const text = fc.string({ unit: "grapheme", maxLength: 80 });
const uint32 = fc.nat(2 ** 31 - 1);
const times = fc.maxSafeNat().map(BigInt);
const records = fc
  .record({
    callId: text,
    keyId: text,
    projectId: text,
    model: text,
    deployment: text,
    nodeId: text,
    door: text,
    outcome: fc.constantFrom(Outcome.UNSPECIFIED, Outcome.COMPLETED, Outcome.FAILED),
    reason: fc.constantFrom(Reason.UNSPECIFIED, Reason.NODE_LOST),
    usage: fc.option(fc.record({ promptTokens: uint32, cachedTokens: uint32, completionTokens: uint32 }), {
      nil: undefined,
    }),
    startedAtMs: times,
    durationMs: times,
    ttftMs: times,
    labels: fc.dictionary(text, text, { maxKeys: 16, noNullPrototype: true }),
    attempts: uint32,
  })
  .map(({ usage, ...rest }) => create(UsageRecordSchema, { ...rest, ...(usage && { usage }) }));

test("a record written by hand is what protobuf-es reads", () => {
  fc.assert(
    fc.property(records, (record) => {
      expect(fromBinary(UsageRecordSchema, encodeUsageRecord(record))).toEqual(record);
    }),
  );
});

test("encoded records leave in a request as if they had been decoded into it", () => {
  fc.assert(
    fc.property(fc.array(records, { maxLength: 5 }), (batch) => {
      const request = create(ReportUsageRequestSchema, { routerId: "r" });
      const encoded = batch.map((record) => toBinary(UsageRecordSchema, record));
      request.$unknown = encodedMessages(ReportUsageRequestSchema.field.records.number, encoded);
      expect(fromBinary(ReportUsageRequestSchema, toBinary(ReportUsageRequestSchema, request))).toEqual(
        create(ReportUsageRequestSchema, { routerId: "r", records: batch }),
      );
    }),
  );
});
