import { systemClock } from "#kernel/clock.ts";
import { Wire } from "#kernel/wire/index.ts";

const generous = { burst: 1e9, perSecond: 1e9 };

/** HTTP/2 without the bounds that guard against strangers: HAProxy alone sends more window updates than they allow. */
export function bedWire(): Wire {
  return new Wire({
    clock: systemClock,
    limits: {
      maxConcurrentStreams: 100_000,
      streamWindowBytes: 1 << 20,
      connectionWindowBytes: 1 << 26,
      maxStreamWaitingBytes: 1 << 27,
      maxBufferedBytes: 1 << 28,
      maxGlobalBufferedBytes: 1 << 30,
      resets: generous,
      settings: generous,
      pings: generous,
      emptyFrames: generous,
      windowUpdates: generous,
    },
  });
}
