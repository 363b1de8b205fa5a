import { describe, expect, test } from "vitest";
import { CpuMeter } from "./cpu.ts";
import { Host } from "./host.ts";
import { parseNvidiaSmi } from "./nvidia.ts";

const h200 = "0, NVIDIA H200, GPU-6f0ad2a0-7d0e-2c4c-a6e8-2d1f3d5b9a11, 143771, 1042, 37, 31, 76.52\n";
const mixed = `Warning: infoROM is corrupted
0, NVIDIA A100-SXM4-80GB, GPU-aaaa, 81920, 80123, 100, 64, 398.01
1, Tesla K80, GPU-bbbb, 11441, 0, [N/A], 40, [Not Supported]
`;

describe("parseNvidiaSmi", () => {
  test("reads a card", () => {
    expect(parseNvidiaSmi(h200)).toEqual([
      {
        index: 0,
        name: "NVIDIA H200",
        uuid: "GPU-6f0ad2a0-7d0e-2c4c-a6e8-2d1f3d5b9a11",
        memoryBytes: 143_771n * 1_048_576n,
        memoryUsedBytes: 1_042n * 1_048_576n,
        utilization: 0.37,
        temperatureC: 31,
        powerW: 76.52,
      },
    ]);
  });

  test("leaves out warnings and reads what a card does not report as 0", () => {
    const gpus = parseNvidiaSmi(mixed);
    expect(gpus.map(({ index, utilization, powerW }) => ({ index, utilization, powerW }))).toEqual([
      { index: 0, utilization: 1, powerW: 398.01 },
      { index: 1, utilization: 0, powerW: 0 },
    ]);
  });

  test("reads nothing as no cards", () => {
    expect(parseNvidiaSmi("")).toEqual([]);
    expect(parseNvidiaSmi("No devices were found\n")).toEqual([]);
  });
});

describe("CpuMeter", () => {
  test("gives the share of busy time since the last reading", () => {
    let busy = 100;
    let idle = 900;
    const meter = new CpuMeter(() => [
      { model: "x", speed: 1, times: { user: busy / 2, nice: 0, sys: busy / 2, irq: 0, idle } },
    ]);
    busy += 30;
    idle += 70;
    expect(meter.read()).toBeCloseTo(0.3);
    expect(meter.read()).toBe(0);
  });
});

describe("Host", () => {
  test("asks for GPUs no more once there were none", async () => {
    let asked = 0;
    const host = new Host(async () => {
      asked++;
      return [];
    });
    const info = await host.info();
    await host.load();
    expect(asked).toBe(1);
    expect(info.cpuCount).toBeGreaterThan(0);
    expect(info.memoryBytes).toBeGreaterThan(0n);
  });

  test("reports each GPU's load", async () => {
    const host = new Host(async () => parseNvidiaSmi(h200));
    expect((await host.load()).gpus).toMatchObject([{ index: 0, memoryUsedBytes: 1_042n * 1_048_576n }]);
  });
});
