import { Code } from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";

/** What one reason looks like in each protocol. `retryable`: the same request may succeed later or elsewhere. */
export interface ErrorRow {
  readonly code: Code;
  readonly httpStatus: number;
  /** `error.type` of an OpenAI error body. */
  readonly openAiType: string;
  /** `error.code` of an OpenAI error body. */
  readonly openAiCode: string | null;
  readonly retryable: boolean;
}

type SentReason = Exclude<(typeof Reason)[keyof typeof Reason], typeof Reason.UNSPECIFIED>;

const invalid = "invalid_request_error";

/**
 * One row a reason. RESOURCE_EXHAUSTED means slow down, UNAVAILABLE means try another; a type error is thrown here when
 * the enum grows. Statuses follow the OpenAI API reference ("Error codes") and the Connect protocol's code table.
 */
export const errorTable: { readonly [R in SentReason]: ErrorRow } = {
  [Reason.INVALID_REQUEST]: row(Code.InvalidArgument, 400, invalid, "invalid_request", false),
  [Reason.UNSUPPORTED_PARAMETER]: row(Code.InvalidArgument, 400, invalid, "unsupported_parameter", false),
  [Reason.REQUEST_TOO_LARGE]: row(Code.ResourceExhausted, 413, invalid, "request_too_large", false),
  [Reason.CONTEXT_LENGTH_EXCEEDED]: row(Code.InvalidArgument, 400, invalid, "context_length_exceeded", false),
  [Reason.MODEL_NOT_FOUND]: row(Code.NotFound, 404, invalid, "model_not_found", false),
  [Reason.ROUTE_NOT_FOUND]: row(Code.Unimplemented, 404, invalid, "route_not_found", false),
  [Reason.INVALID_API_KEY]: row(Code.Unauthenticated, 401, invalid, "invalid_api_key", false),
  [Reason.PERMISSION_DENIED]: row(Code.PermissionDenied, 403, invalid, "permission_denied", false),
  [Reason.RATE_LIMITED]: row(Code.ResourceExhausted, 429, "rate_limit_error", "rate_limit_exceeded", true),
  [Reason.OVERLOADED]: row(Code.ResourceExhausted, 503, "server_error", "overloaded", true),
  [Reason.NO_READY_REPLICA]: row(Code.Unavailable, 503, "server_error", "no_ready_replica", true),
  [Reason.ENGINE_FAILED]: row(Code.Unavailable, 503, "server_error", "engine_failed", true),
  [Reason.NODE_LOST]: row(Code.Unavailable, 503, "server_error", "node_lost", true),
  [Reason.DRAINING]: row(Code.Unavailable, 503, "server_error", "draining", true),
  [Reason.DEADLINE_EXCEEDED]: row(Code.DeadlineExceeded, 504, "server_error", "deadline_exceeded", false),
  [Reason.CANCELLED]: row(Code.Canceled, 499, invalid, "cancelled", false),
  [Reason.NOT_FOUND]: row(Code.NotFound, 404, invalid, "not_found", false),
  [Reason.ALREADY_EXISTS]: row(Code.AlreadyExists, 409, invalid, "already_exists", false),
  [Reason.CONFLICT]: row(Code.FailedPrecondition, 409, invalid, "conflict", false),
  [Reason.CONTROL_PLANE_UNAVAILABLE]: row(Code.Unavailable, 503, "server_error", "control_plane_unavailable", true),
  [Reason.ENGINE_STALLED]: row(Code.Unavailable, 503, "server_error", "engine_stalled", true),
  [Reason.CANNOT_CONTINUE]: row(Code.Unavailable, 503, "server_error", "cannot_continue", true),
  [Reason.RESUMED_ELSEWHERE]: row(Code.Aborted, 409, invalid, "resumed_elsewhere", false),
  [Reason.INTERNAL]: row(Code.Internal, 500, "server_error", "internal_error", false),
};

function row(
  code: Code,
  httpStatus: number,
  openAiType: string,
  openAiCode: string | null,
  retryable: boolean,
): ErrorRow {
  return { code, httpStatus, openAiType, openAiCode, retryable };
}

/** The row of a reason; that of INTERNAL for one that a newer peer sent. */
export function errorRow(reason: Reason): ErrorRow {
  return (errorTable as Partial<Record<number, ErrorRow>>)[reason] ?? errorTable[Reason.INTERNAL];
}
