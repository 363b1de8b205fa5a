import { checkText } from "./field.ts";
import { decodePageToken, encodePageToken, pageSizeOf } from "../store/page.ts";

/** One page of a list that is sorted by a name. */
export interface Page {
  /** Most rows to return. */
  readonly limit: number;
  /** Name in the last row of the page before; empty at the start. */
  readonly after: string;
}

/** Reads `page_size` and `page_token` of a request. */
export function readPage(request: { readonly pageSize: number; readonly pageToken: string }): Page {
  const limit = pageSizeOf(request.pageSize);
  const after = decodePageToken(request.pageToken, [""] as const)?.[0] ?? "";
  return { limit, after: checkText("page_token", after, { max: 256 }) };
}

/** Splits off the one row that was read beyond the page to learn whether there is another page. */
export function cutPage<T extends { readonly name: string }>(
  rows: readonly T[],
  page: Page,
): { readonly rows: T[]; readonly nextPageToken: string } {
  const kept = rows.slice(0, page.limit);
  const last = rows.length > page.limit ? kept.at(-1) : undefined;
  return { rows: kept, nextPageToken: last === undefined ? "" : encodePageToken([last.name]) };
}
