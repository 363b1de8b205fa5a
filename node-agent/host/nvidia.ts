import { execFile } from "node:child_process";

export interface GpuReading {
  readonly index: number;
  readonly name: string;
  readonly uuid: string;
  readonly memoryBytes: bigint;
  readonly memoryUsedBytes: bigint;
  /** 0 to 1. */
  readonly utilization: number;
  readonly temperatureC: number;
  readonly powerW: number;
}

const fields = [
  "index",
  "name",
  "uuid",
  "memory.total",
  "memory.used",
  "utilization.gpu",
  "temperature.gpu",
  "power.draw",
];

/** All GPUs by `nvidia-smi`; empty where it is missing, fails or takes longer than `timeoutMs`. */
export function readNvidiaGpus(timeoutMs: number): Promise<GpuReading[]> {
  return new Promise((resolve) => {
    const args = [`--query-gpu=${fields.join(",")}`, "--format=csv,noheader,nounits"];
    execFile("nvidia-smi", args, { timeout: timeoutMs, maxBuffer: 1 << 20 }, (error, stdout) => {
      // A host without it is the usual case, not a fault.
      resolve(error === null ? parseNvidiaSmi(stdout) : []);
    });
  });
}

/** Lines that are no GPU (a driver's warning) are left out; a value that the card does not report reads 0. */
export function parseNvidiaSmi(csv: string): GpuReading[] {
  const readings: GpuReading[] = [];
  for (const line of csv.split("\n")) {
    const cells = line.split(",").map((cell) => cell.trim());
    const [index, name, uuid, total, used, utilization, temperature, power] = cells;
    if (cells.length !== fields.length || index === undefined || !/^\d+$/.test(index)) continue;
    readings.push({
      index: Number(index),
      name: name ?? "",
      uuid: uuid ?? "",
      memoryBytes: mebibytes(total),
      memoryUsedBytes: mebibytes(used),
      utilization: Math.min(1, numberOf(utilization) / 100),
      temperatureC: numberOf(temperature),
      powerW: numberOf(power),
    });
  }
  return readings;
}

function mebibytes(cell: string | undefined): bigint {
  return BigInt(Math.round(numberOf(cell))) * 1_048_576n;
}

/** 0 for "[N/A]" and "[Not Supported]". */
function numberOf(cell: string | undefined): number {
  const value = Number.parseFloat(cell ?? "");
  return Number.isFinite(value) && value > 0 ? value : 0;
}
