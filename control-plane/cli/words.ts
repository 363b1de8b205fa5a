import { EngineKind, KeyRole, Outcome, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { UsageError } from "./command.ts";

/** Enum values as people write them, both ways. */
export const engines = words({ "llama.cpp": EngineKind.LLAMA_CPP, sim: EngineKind.SIM });

export const roles = words({
  inference: KeyRole.INFERENCE,
  operator: KeyRole.OPERATOR,
  router: KeyRole.ROUTER,
  node: KeyRole.NODE,
});

export const replicaStates = words({
  absent: ReplicaState.ABSENT,
  fetching: ReplicaState.FETCHING,
  loading: ReplicaState.LOADING,
  warming: ReplicaState.WARMING,
  ready: ReplicaState.READY,
  draining: ReplicaState.DRAINING,
  failed: ReplicaState.FAILED,
});

export const outcomes = words({
  completed: Outcome.COMPLETED,
  cancelled: Outcome.CANCELLED,
  failed: Outcome.FAILED,
});

function words<Value extends number>(table: Readonly<Record<string, Value>>) {
  return {
    all: Object.keys(table).join(", "),
    /** "unknown" for a value that a newer server sent. */
    word: (value: number) => Object.keys(table).find((word) => table[word] === value) ?? "unknown",
    parse(field: string, text: string): Value {
      const value = Object.hasOwn(table, text) ? table[text] : undefined;
      if (value === undefined)
        throw new UsageError(`${field} is "${text}"; it must be one of ${Object.keys(table).join(", ")}.`);
      return value;
    },
  };
}
