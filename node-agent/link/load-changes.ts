import { equals } from "@bufbuild/protobuf";
import { type ReplicaLoad, ReplicaLoadSchema } from "#gen/helixmesh/type/v1/type_pb.ts";

/** Remembers what was last said of each replica and lets only news through. */
export class LoadChanges {
  #last = new Map<string, ReplicaLoad>();

  changed(loads: readonly ReplicaLoad[]): ReplicaLoad[] {
    const news = loads.filter((load) => {
      const last = this.#last.get(load.replicaId);
      return last === undefined || !equals(ReplicaLoadSchema, last, load);
    });
    this.#last = new Map(loads.map((load) => [load.replicaId, load]));
    return news;
  }
}
