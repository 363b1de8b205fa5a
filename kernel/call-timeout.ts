import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/** https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests, TimeoutUnit, in milliseconds */
const unitMs = new Map([
  ["H", 3_600_000],
  ["M", 60_000],
  ["S", 1_000],
  ["m", 1],
  ["u", 0.001],
  ["n", 0.000_001],
]);

/** Milliseconds that a `grpc-timeout` header gives the call; infinite without one. @throws MeshError INVALID_REQUEST */
export function grpcTimeoutMs(header: string | undefined): number {
  if (header === undefined) return Number.POSITIVE_INFINITY;
  const [, digits, unit = ""] = /^(\d{1,8})([HMSmun])$/.exec(header) ?? [];
  if (digits === undefined) throw wrongTimeout("grpc-timeout", header, "up to 8 digits and one of H, M, S, m, u, n");
  return Number(digits) * (unitMs.get(unit) ?? 1);
}

/** As `grpcTimeoutMs`, of `connect-timeout-ms` (https://connectrpc.com/docs/protocol, "Timeout"). */
export function connectTimeoutMs(header: string | undefined): number {
  return plainTimeoutMs("connect-timeout-ms", header) ?? Number.POSITIVE_INFINITY;
}

/** Milliseconds by the header `name`, which holds nothing but their digits. @throws MeshError INVALID_REQUEST */
export function plainTimeoutMs(name: string, header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  if (!/^\d{1,10}$/.test(header)) throw wrongTimeout(name, header, "up to 10 digits");
  return Number(header);
}

function wrongTimeout(name: string, given: string, form: string): MeshError {
  const message = `The header ${name} is ${JSON.stringify(given.slice(0, 100))}; it must be ${form}.`;
  return new MeshError(Reason.INVALID_REQUEST, message, { field: name });
}
