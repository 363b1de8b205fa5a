import type { Interceptor } from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Authorize } from "#kernel/rpc-errors.ts";

/**
 * SQLSTATE classes and driver or socket codes that say that the database is away or overrun, and not that a statement
 * is wrong (https://www.postgresql.org/docs/18/errcodes-appendix.html).
 */
const awayCode = /^(08...|53...|57P0.|CONNECT.*|ECONN.*|ENOENT|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENOTFOUND)$/;
/** Two transactions got in each other's way; the caller may simply try again. */
const collisionCode = /^40(001|P01)$/;

/** Turns failures of the database that pass into CONTROL_PLANE_UNAVAILABLE, which callers retry. */
export function databaseErrors(logger: Logger): Interceptor {
  return (next) => async (request) => {
    try {
      return await next(request);
    } catch (error) {
      throw translate(error, request.method.name, logger);
    }
  };
}

/** The same for a call's authorization, which no interceptor sees. */
export function withDatabaseErrors(authorize: Authorize, logger: Logger): Authorize {
  return async (context) => {
    try {
      await authorize(context);
    } catch (error) {
      throw translate(error, context.method.name, logger);
    }
  };
}

function translate(error: unknown, method: string, logger: Logger): unknown {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (typeof code !== "string" || !(awayCode.test(code) || collisionCode.test(code))) return error;
  logger.warn("the database did not serve a call", { method, code, error });
  const message = "The control plane's database does not answer; try again.";
  return new MeshError(Reason.CONTROL_PLANE_UNAVAILABLE, message, { cause: error });
}
