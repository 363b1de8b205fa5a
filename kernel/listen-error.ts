/** Says which setting helps when a port cannot be had; any other error comes back as it is. */
export function listenError(error: unknown, port: number, flag: string): unknown {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "EADDRINUSE") {
    return new Error(
      `Port ${port} is in use. Stop what uses it, or choose another with ${flag} (0 takes any free one).`,
      {
        cause: error,
      },
    );
  }
  if (code === "EACCES") {
    return new Error(`Port ${port} may not be opened by this user. Choose one from 1024 up with ${flag}.`, {
      cause: error,
    });
  }
  return error;
}
