import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { ResponseSink, RunningCall } from "./sink.ts";

/** The answer of a call that has one response. Rejects with a MeshError; aborts the call with `signal`. */
export function onlyResponse(begin: (sink: ResponseSink) => RunningCall, signal: AbortSignal): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    let only: Uint8Array | undefined;
    const fail = (error: MeshError): void => {
      signal.removeEventListener("abort", onAbort);
      reject(error);
    };
    const call = begin({
      writeMessage(bytes, start, end) {
        only ??= new Uint8Array(bytes.subarray(start, end));
        return true;
      },
      finish() {
        signal.removeEventListener("abort", onAbort);
        if (only) resolve(only);
        else reject(noAnswer());
      },
      fail,
      cut: fail,
      restart() {
        only = undefined;
        return true;
      },
    });
    function onAbort(): void {
      call.abort(signal.reason);
    }
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
}

function noAnswer(): MeshError {
  const message = "The engine gave no answer; quote the request id when asking for help.";
  const cause = new Error("the agent ended the call well and sent no response");
  return new MeshError(Reason.INTERNAL, message, { cause });
}
