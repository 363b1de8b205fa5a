/**
 * Flags of V8 that a router is started with. What a call allocates dies with the call, so it should never reach the old
 * generation: with V8's own 16 MiB for new objects, some hundred streams under way when these were full were copied, and
 * then promoted, every second. Measured with 512 streams at 49,000 tokens/s on one core: pauses of 15 to 33 ms every 1.4 s
 * became 10 ms every 4 s, and the heap stopped growing between full collections. The price is about 50 MiB.
 *
 * V8 would also move some kinds of objects to the old generation at once, by what happened to the first few of them: then
 * all that these refer to lives until the next full collection. Of each OpenAI request 7 KB did, and the collector had a
 * tenth of the router's CPU.
 *
 * helixmesh.mjs and the systemd unit have them in words of their own; a test in deploy/ compares.
 */
export const routerNodeFlags: readonly string[] = [
  "--min-semi-space-size=64",
  "--max-semi-space-size=64",
  "--no-allocation-site-pretenuring",
];
