import type { EngineCapabilities } from "#gen/helixmesh/type/v1/type_pb.ts";

export type BooleanCapability = {
  [K in keyof EngineCapabilities]-?: EngineCapabilities[K] extends boolean ? K : never;
}[keyof EngineCapabilities];

/** Something a call needs of an engine, with the request's parameter that asks for it. */
export interface Need {
  readonly capability: BooleanCapability;
  readonly parameter: string;
}

/** A record, so that a new capability of the contract fails to compile until it has its bit. */
const bits: { readonly [C in BooleanCapability]: number } = {
  generate: 1,
  embed: 2,
  grammar: 4,
  logprobs: 8,
  chat: 16,
  tools: 32,
  seed: 64,
  seedByPosition: 128,
};
const capabilities = Object.keys(bits) as BooleanCapability[];

/** What an engine can do, as bits: replicas with the same ones are alike to every call. */
export function capabilityBits(of: EngineCapabilities): number {
  return capabilities.reduce((all, capability) => (of[capability] ? all | bits[capability] : all), 0);
}

/** What a call needs; an engine can take it when `(capabilityBits & needBits) === needBits`. */
export function needBits(needs: readonly Need[]): number {
  let all = 0;
  for (const { capability } of needs) all |= bits[capability];
  return all;
}

/** The first need that an engine with `able` lacks. */
export function lacking(able: number, needs: readonly Need[]): Need | undefined {
  return needs.find(({ capability }) => (able & bits[capability]) === 0);
}
