import { expect, test } from "vitest";
import { RecentRecords } from "#kernel/spool-recent.ts";
import { encodeFrame, frameHeaderBytes } from "#kernel/spool-segment.ts";

/** Frames of the texts, one behind the other. */
function frames(...texts: string[]): Buffer {
  const bytes = Buffer.alloc(texts.reduce((sum, text) => sum + frameHeaderBytes + text.length, 0));
  let at = 0;
  for (const text of texts) at = encodeFrame(Buffer.from(text), bytes, at);
  return bytes;
}

function read(recent: RecentRecords, segment: number, offset: number, max: number) {
  const records: Uint8Array[] = [];
  const end = recent.read(segment, offset, max, records);
  return { end, texts: records.map((record) => Buffer.from(record).toString()) };
}

test("gives records over several writes, from the middle of one on, as many as are wanted", () => {
  const recent = new RecentRecords();
  const first = frames("a", "bb");
  const second = frames("", "dddd");
  recent.add(1, 0, first);
  recent.add(1, first.length, second);
  const all = first.length + second.length;
  expect(read(recent, 1, 0, 10)).toEqual({ end: all, texts: ["a", "bb", "", "dddd"] });
  expect(read(recent, 1, frames("a").length, 2)).toEqual({ end: first.length + frames("").length, texts: ["bb", ""] });
  expect(read(recent, 1, all, 10)).toEqual({ end: all, texts: [] });
});

test("gives nothing of another segment, nor of what was written before it kept anything", () => {
  const recent = new RecentRecords();
  recent.add(2, 100, frames("a"));
  expect(read(recent, 1, 100, 10)).toEqual({ end: 100, texts: [] });
  expect(read(recent, 2, 50, 10)).toEqual({ end: 50, texts: [] });
});

test("keeps a copy, the newest first of all, until it lies before what is read next", () => {
  const recent = new RecentRecords();
  const large = frames("x".repeat(700_000));
  recent.add(1, 0, large);
  recent.add(1, large.length, large);
  large.fill(0);
  expect(read(recent, 1, 0, 10).texts).toEqual([]);
  expect(read(recent, 1, large.length, 10)).toEqual({ end: 2 * large.length, texts: ["x".repeat(700_000)] });
  recent.forgetBefore(1, 2 * large.length - 1);
  expect(read(recent, 1, large.length, 10).texts).toHaveLength(1);
  recent.forgetBefore(1, 2 * large.length);
  expect(read(recent, 1, large.length, 10).texts).toEqual([]);
});
