import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";

/** Whether an attempt that failed for this reason may be made again on another replica, or go on there. */
export function mayRetryElsewhere(reason: Reason): boolean {
  switch (reason) {
    case Reason.NODE_LOST:
    case Reason.DRAINING:
    case Reason.NO_READY_REPLICA:
    case Reason.ENGINE_FAILED:
    case Reason.ENGINE_STALLED:
    case Reason.OVERLOADED:
    case Reason.CANNOT_CONTINUE:
      return true;
    default:
      return false;
  }
}

/**
 * Whether such a retry is under the budget for work that is done twice. A node that is lost or drained has stopped to
 * work on its calls, all at once: they go elsewhere, as calls do that have output already.
 */
export function isExtraWork(reason: Reason): boolean {
  return reason !== Reason.NODE_LOST && reason !== Reason.DRAINING;
}

/**
 * Whether the same replica may be asked again later: one that is full said no, and waiting only adds to its queue; one
 * that would have said something else will do so again.
 */
export function mayRetrySame(reason: Reason): boolean {
  return mayRetryElsewhere(reason) && reason !== Reason.OVERLOADED && reason !== Reason.CANNOT_CONTINUE;
}
