import { availableParallelism, cpus, freemem, hostname, totalmem } from "node:os";
import { create } from "@bufbuild/protobuf";
import { type HostInfo, HostInfoSchema, type HostLoad, HostLoadSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { CpuMeter } from "./cpu.ts";
import { type GpuReading, readNvidiaGpus } from "./nvidia.ts";

const gpuTimeoutMs = 5_000;

/** What the host has and how busy it is. Where `nvidia-smi` does not answer at the start it is not asked again. */
export class Host {
  readonly #cpu = new CpuMeter(cpus);
  readonly #readGpus: (timeoutMs: number) => Promise<GpuReading[]>;
  #hasGpus = true;

  constructor(readGpus = readNvidiaGpus) {
    this.#readGpus = readGpus;
  }

  async info(): Promise<HostInfo> {
    const gpus = await this.#gpus();
    return create(HostInfoSchema, {
      hostname: hostname(),
      platform: `${process.platform} ${process.arch}`,
      cpuCount: availableParallelism(),
      memoryBytes: BigInt(totalmem()),
      gpus: gpus.map(({ index, name, uuid, memoryBytes }) => ({ index, name, uuid, memoryBytes })),
    });
  }

  /** CPU utilisation is that since the last reading. */
  async load(): Promise<HostLoad> {
    const gpus = await this.#gpus();
    return create(HostLoadSchema, {
      cpuUtilization: this.#cpu.read(),
      memoryUsedBytes: BigInt(totalmem() - freemem()),
      gpus: gpus.map(({ index, utilization, memoryUsedBytes, temperatureC, powerW }) => ({
        index,
        utilization,
        memoryUsedBytes,
        temperatureC,
        powerW,
      })),
    });
  }

  async #gpus(): Promise<GpuReading[]> {
    if (!this.#hasGpus) return [];
    const gpus = await this.#readGpus(gpuTimeoutMs);
    this.#hasGpus = gpus.length > 0;
    return gpus;
  }
}
