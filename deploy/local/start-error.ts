/** Why the mesh cannot start or go on, with what to do about it, for the person in front of the terminal. */
export class StartError extends Error {
  override readonly name = "StartError";
}

/** The `code` of a system error such as "EACCES"; undefined for anything else. */
export function systemErrorCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
