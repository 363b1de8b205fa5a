import { create, toBinary } from "@bufbuild/protobuf";
import { DurationSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorDetailSchema, Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type ErrorRow, errorRow } from "#kernel/error-table.ts";

export interface MeshErrorOptions {
  /** Path of the field at fault, such as `messages[0].role`. */
  readonly field?: string;
  /** The limit exceeded, with its unit, such as `2048 tokens`. */
  readonly limit?: string;
  readonly retryAfterMs?: number;
  /** Logged, never sent. */
  readonly cause?: unknown;
}

/** The one fault that crosses rooms. `message` is for the caller: what happened and what to do, no internals. */
export class MeshError extends Error {
  override readonly name = "MeshError";
  readonly reason: Reason;
  readonly field: string;
  readonly limit: string;
  readonly retryAfterMs: number;

  constructor(reason: Reason, message: string, options: MeshErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.reason = reason;
    this.field = options.field ?? "";
    this.limit = options.limit ?? "";
    this.retryAfterMs = options.retryAfterMs ?? 0;
  }

  get row(): ErrorRow {
    return errorRow(this.reason);
  }

  /** The only way in for a foreign value. Errors that carry our detail come back as what they were. */
  static from(value: unknown): MeshError {
    if (value instanceof MeshError) return value;
    if (value instanceof ConnectError) {
      const detail = value.findDetails(ErrorDetailSchema)[0];
      if (detail) {
        return new MeshError(detail.reason, value.rawMessage, {
          field: detail.field,
          limit: detail.limit,
          retryAfterMs: Number(detail.retryAfterMs),
          cause: value,
        });
      }
      return new MeshError(reasonOfCode(value.code), value.rawMessage, { cause: value });
    }
    return new MeshError(Reason.INTERNAL, "Internal error; quote the request id when asking for help.", {
      cause: value,
    });
  }

  /** For gRPC, gRPC-Web and Connect; the detail travels in google.rpc.Status or Connect's error details. */
  toConnectError(callId = "", headers?: Record<string, string>): ConnectError {
    const retryAfterMs = Math.round(this.retryAfterMs);
    const detail = {
      reason: this.reason,
      field: this.field,
      limit: this.limit,
      retryable: this.row.retryable,
      retryAfterMs: BigInt(retryAfterMs),
      callId,
    };
    const details = [{ desc: ErrorDetailSchema, value: detail }];
    const error = new ConnectError(this.message, this.row.code, headers, details, this.cause);
    if (this.retryAfterMs > 0)
      error.details.push({ type: "google.rpc.RetryInfo", value: retryInfo(this.retryAfterMs) });
    return error;
  }
}

/**
 * What gRPC clients look for when they wait before a retry, as HTTP's do for Retry-After: a google.rpc.RetryInfo
 * (https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto), which has this one field.
 */
function retryInfo(ms: number): Uint8Array {
  const delay = create(DurationSchema, { seconds: BigInt(Math.floor(ms / 1_000)), nanos: (ms % 1_000) * 1_000_000 });
  const bytes = toBinary(DurationSchema, delay);
  // Field 1, a message; a duration has 17 bytes at most.
  return Uint8Array.of(0x0a, bytes.length, ...bytes);
}

/** What a bare gRPC code of a peer means to us. */
function reasonOfCode(code: Code): Reason {
  switch (code) {
    case Code.Canceled:
      return Reason.CANCELLED;
    case Code.InvalidArgument:
    case Code.OutOfRange:
      return Reason.INVALID_REQUEST;
    case Code.DeadlineExceeded:
      return Reason.DEADLINE_EXCEEDED;
    case Code.NotFound:
      return Reason.NOT_FOUND;
    case Code.AlreadyExists:
      return Reason.ALREADY_EXISTS;
    case Code.PermissionDenied:
      return Reason.PERMISSION_DENIED;
    case Code.ResourceExhausted:
      return Reason.OVERLOADED;
    case Code.FailedPrecondition:
    case Code.Aborted:
      return Reason.CONFLICT;
    case Code.Unimplemented:
      return Reason.ROUTE_NOT_FOUND;
    case Code.Unavailable:
      return Reason.CONTROL_PLANE_UNAVAILABLE;
    case Code.Unauthenticated:
      return Reason.INVALID_API_KEY;
    case Code.Unknown:
    case Code.Internal:
    case Code.DataLoss:
      return Reason.INTERNAL;
  }
}
