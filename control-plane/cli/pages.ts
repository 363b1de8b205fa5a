interface Page<Item> {
  readonly items: readonly Item[];
  readonly nextPageToken: string;
}

/** Every item of a paged list, or the first `limit` of them. */
export async function allPages<Item>(
  fetch: (pageToken: string, pageSize: number) => Promise<Page<Item>>,
  limit = Number.POSITIVE_INFINITY,
): Promise<Item[]> {
  const items: Item[] = [];
  let pageToken = "";
  while (items.length < limit) {
    const page = await fetch(pageToken, Math.min(1_000, limit - items.length));
    items.push(...page.items);
    pageToken = page.nextPageToken;
    if (pageToken === "") break;
  }
  return items;
}
