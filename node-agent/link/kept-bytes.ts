import { Method, type StartCall } from "#gen/helixmesh/link/v1/link_pb.ts";

export interface KeptLimits {
  /** Of the responses of one call. */
  readonly callBytes: number;
  /** Of those of all calls together. */
  readonly totalBytes: number;
}

/** How much the calls of all links keep of what they said. */
export class KeptBytes {
  readonly #limits: KeptLimits;
  readonly #onBound: (bound: "call_bytes" | "total_bytes") => void;
  #bytes = 0;

  constructor(limits: KeptLimits, onBound: (bound: "call_bytes" | "total_bytes") => void) {
    this.#limits = limits;
    this.#onBound = onBound;
  }

  /** Only generations can go on without their link, and only for whoever began them. */
  isKept({ method, keyId }: StartCall): boolean {
    return this.#limits.callBytes > 0 && method === Method.GENERATE && keyId !== "";
  }

  /** For one more response of a call that has `held` bytes. False: it does not fit. */
  take(bytes: number, held: number): boolean {
    const bound = held + bytes > this.#limits.callBytes ? "call_bytes" : "total_bytes";
    if (bound === "total_bytes" && this.#bytes + bytes <= this.#limits.totalBytes) {
      this.#bytes += bytes;
      return true;
    }
    this.#onBound(bound);
    return false;
  }

  give(bytes: number): void {
    this.#bytes -= bytes;
  }
}
