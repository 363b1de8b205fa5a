import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

const defaultPageSize = 100;
const largestPageSize = 1_000;

/** The page_size of a request: 0 means 100, and more than 1,000 is refused. */
export function pageSizeOf(pageSize: number): number {
  if (pageSize <= largestPageSize) return pageSize || defaultPageSize;
  throw new MeshError(
    Reason.INVALID_REQUEST,
    `page_size is ${pageSize}; ask for at most ${largestPageSize} and page on.`,
    {
      field: "page_size",
      limit: `${largestPageSize} entries`,
    },
  );
}

/** A token is the sort key of the last entry given out: pages neither repeat nor skip what others insert meanwhile. */
export function encodePageToken(sortKey: readonly (string | number)[]): string {
  return Buffer.from(JSON.stringify(sortKey)).toString("base64url");
}

/** The sort key; undefined at the start. `shape` holds an example of each element. */
export function decodePageToken<K extends readonly (string | number)[]>(token: string, shape: K): K | undefined {
  if (token === "") return undefined;
  const sortKey = parse(token);
  if (hasShape(sortKey, shape)) return sortKey;
  throw new MeshError(
    Reason.INVALID_REQUEST,
    "page_token must be the next_page_token of the answer before, or empty.",
    {
      field: "page_token",
    },
  );
}

function hasShape<K extends readonly (string | number)[]>(value: unknown, shape: K): value is K {
  return (
    Array.isArray(value) && value.length === shape.length && value.every((part, i) => typeof part === typeof shape[i])
  );
}

function parse(token: string): unknown {
  try {
    return JSON.parse(Buffer.from(token, "base64url").toString("utf8"));
  } catch {
    // Not one of ours: the caller gets the same message as for a wrong shape.
    return undefined;
  }
}
