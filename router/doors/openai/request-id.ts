/** The caller's x-request-id if it is 1 to 128 printable ASCII characters, so that it can safely go back in a header. */
export function requestId(header: string | readonly string[] | undefined, newCallId: () => string): string {
  return typeof header === "string" && /^[\x20-\x7e]{1,128}$/.test(header) ? header : newCallId();
}
