import { fromBinary } from "@bufbuild/protobuf";
import type { ReplicaInfo } from "#gen/helixmesh/link/v1/link_pb.ts";
import {
  type EngineCapabilities,
  type ReplicaLoad,
  ReplicaLoadSchema,
  type ReplicaState,
} from "#gen/helixmesh/type/v1/type_pb.ts";
import type { ReplicaView } from "../routing/replica-view.ts";

/** A replica at the other end of a link. Its load comes with every step and is decoded when somebody looks. */
export class LinkReplica implements ReplicaView {
  info: ReplicaInfo;
  inFlight = 0;
  #encodedLoad = Buffer.allocUnsafe(0);
  #encodedBytes = 0;
  #load: ReplicaLoad | undefined;

  constructor(info: ReplicaInfo) {
    this.info = info;
  }

  get state(): ReplicaState {
    return this.info.state;
  }

  get progress(): number | undefined {
    return this.info.progress;
  }

  get capabilities(): EngineCapabilities | undefined {
    return this.info.capabilities;
  }

  get load(): ReplicaLoad | undefined {
    const encoded = this.#encodedLoad.subarray(0, this.#encodedBytes);
    if (encoded.length === 0) return this.#load;
    this.#encodedBytes = 0;
    return (this.#load = fromBinary(ReplicaLoadSchema, encoded));
  }

  /** One encoded ReplicaLoad, of this replica, copied. */
  setLoad(bytes: Buffer, start: number, end: number): void {
    const length = end - start;
    if (this.#encodedLoad.length < length) this.#encodedLoad = Buffer.allocUnsafe(length + 16);
    bytes.copy(this.#encodedLoad, 0, start, end);
    this.#encodedBytes = length;
  }
}
