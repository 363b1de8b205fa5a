import { describe, expect, test } from "vitest";
import { ago, bytes, count, dollars, moment, parseMoment, parsePricePerMillion, pricePerMillion } from "./format.ts";

describe("money", () => {
  test("shows every nano-dollar and at least two decimals", () => {
    expect(dollars(0n)).toBe("$0.00");
    expect(dollars(1n)).toBe("$0.000000001");
    expect(dollars(1_500_000_000n)).toBe("$1.50");
    expect(dollars(1_234_567_000_000_000n)).toBe("$1,234,567.00");
    expect(dollars(2n ** 64n - 1n)).toBe("$18,446,744,073.709551615");
  });

  test("of a price goes both ways without loss", () => {
    for (const text of ["0.05", "0.2", "3", "0.001", "999999999.999"]) {
      const nanos = parsePricePerMillion("--prompt", text);
      expect(parsePricePerMillion("--prompt", pricePerMillion(nanos).replace(/,|\/M/g, ""))).toBe(nanos);
    }
  });
});

test("counts have thousands separators", () => {
  expect([0, 999, 1_000, 1_234_567].map(count)).toEqual(["0", "999", "1,000", "1,234,567"]);
});

test("bytes have one decimal where it matters", () => {
  expect([0n, 1_023n, 1_536n, 2n ** 30n * 150n].map(bytes)).toEqual(["0 B", "1023 B", "1.5 KiB", "150 GiB"]);
});

test("moments are UTC", () => {
  expect(moment(0n)).toBe("-");
  expect(moment(1_700_000_000_123n)).toBe("2023-11-14 22:13:20Z");
  expect(ago(1_000n, 61_000)).toBe("60 s ago");
});

describe("parseMoment", () => {
  test("takes dates, times and spans", () => {
    expect(parseMoment("--from", "2023-11-14", 0, -1)).toBe(1_699_920_000_000n);
    expect(parseMoment("--from", "2023-11-14T22:13:20", 0, -1)).toBe(1_700_000_000_000n);
    expect(parseMoment("--from", "2023-11-14T23:13:20+01:00", 0, -1)).toBe(1_700_000_000_000n);
    expect(parseMoment("--from", "24h", 100_000_000, -1)).toBe(13_600_000n);
    expect(parseMoment("--expires", "2d", 0, 1)).toBe(172_800_000n);
  });
});
