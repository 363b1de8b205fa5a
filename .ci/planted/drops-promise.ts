// Planted: a promise nobody waits for, and a clock that is not the kernel's.
export async function work(): Promise<number> {
  return Date.now();
}

export function start(): void {
  work();
}
