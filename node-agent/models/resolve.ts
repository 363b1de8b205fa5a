import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

const packageRoot = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** Models that come with the package. */
const builtins: ReadonlyMap<string, string> = new Map([["pocket", "models/pocket/pocket-1.8m-f16.gguf"]]);

/** The path on this node that a source means. Throws a MeshError that says what sources there are. */
export function resolveSource(source: string): string {
  const builtin = /^builtin:(.*)$/.exec(source)?.[1];
  if (builtin !== undefined) {
    const path = builtins.get(builtin);
    if (path !== undefined) return join(packageRoot, path);
    throw wrong(
      `source "${source}" is no model of this package; there is builtin:${[...builtins.keys()].join(", builtin:")}.`,
    );
  }
  if (source.startsWith("file://")) {
    try {
      return fileURLToPath(source);
    } catch (cause) {
      throw wrong(`source "${source}" is no absolute file URL; write file:///path/on/the/node.`, cause);
    }
  }
  throw wrong(`source "${source}" is of no kind this node knows; write builtin:pocket or file:///path/on/the/node.`);
}

function wrong(message: string, cause?: unknown): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message, { field: "source", cause });
}
