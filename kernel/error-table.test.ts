import { Code } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { Reason, ReasonSchema } from "#gen/helixmesh/error/v1/error_pb.ts";
import { errorRow, errorTable } from "#kernel/error-table.ts";

const sent = ReasonSchema.values.map((value) => value.number).filter((number) => number !== Reason.UNSPECIFIED);

test("has one row for each reason of the contract and no other", () => {
  const rows = Object.keys(errorTable).map(Number);
  expect(rows.sort((a, b) => a - b)).toEqual(sent.sort((a, b) => a - b));
});

test("names each OpenAI code once", () => {
  const codes = Object.values(errorTable).map((row) => row.openAiCode);
  expect(new Set(codes).size).toBe(codes.length);
});

test("gives every row an error status and an OpenAI type that belongs to it", () => {
  for (const row of Object.values(errorTable)) {
    expect(row.httpStatus).toBeGreaterThanOrEqual(400);
    expect(row.httpStatus).toBeLessThan(600);
    expect(row.openAiType === "server_error").toBe(row.httpStatus >= 500);
  }
});

test("asks for a retry only where slowing down or another server can help", () => {
  const retryable = Object.values(errorTable).filter((row) => row.retryable);
  for (const row of retryable) expect([Code.ResourceExhausted, Code.Unavailable]).toContain(row.code);
  const unavailable = Object.values(errorTable).filter((row) => row.code === Code.Unavailable);
  for (const row of unavailable) expect(row.retryable).toBe(true);
});

test("treats a reason of a newer peer as internal", () => {
  expect(errorRow(9_999 as Reason)).toBe(errorTable[Reason.INTERNAL]);
});
