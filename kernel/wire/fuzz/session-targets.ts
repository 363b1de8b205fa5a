import { Flag, FrameType } from "#kernel/wire/frame.ts";
import type { FuzzTarget } from "#kernel/wire/fuzz/loop.ts";
import { Mode, openClient, openServer, runSession } from "#kernel/wire/fuzz/session.ts";
import { getRoot, headerBytes, rawFrame, settingsPayload, uint32 } from "#kernel/wire/raw-peer.ts";

const settings = rawFrame(FrameType.SETTINGS, 0, 0, settingsPayload([4, 70_000]));
const settingsAck = rawFrame(FrameType.SETTINGS, Flag.ACK, 0);
const complete = Flag.END_HEADERS | Flag.END_STREAM;
const hello = Buffer.from("hello");

function requestFrame(streamId: number, flags: number, ...more: (readonly [string, string])[]): Buffer {
  return rawFrame(FrameType.HEADERS, flags, streamId, headerBytes([...getRoot, ...more]));
}

const responseHead = headerBytes([[":status", "200"]]);
const trailers = headerBytes([["grpc-status", "0"]]);

function session(mode: number, ...frames: Buffer[]): Buffer {
  return Buffer.concat([Buffer.of(mode), settings, settingsAck, ...frames]);
}

export const sessionTargets: readonly FuzzTarget[] = [
  {
    name: "server",
    framesFrom: 1,
    seeds: [
      session(0, requestFrame(1, complete), rawFrame(FrameType.WINDOW_UPDATE, 0, 0, uint32(100_000))),
      session(
        Mode.STALLED,
        requestFrame(5, Flag.END_HEADERS, ["content-length", "5"]),
        rawFrame(FrameType.DATA, Flag.END_STREAM, 5, hello),
        requestFrame(7, Flag.END_HEADERS),
        rawFrame(FrameType.WINDOW_UPDATE, 0, 7, uint32(50_000)),
        rawFrame(FrameType.RST_STREAM, 0, 7, uint32(8)),
        requestFrame(11, complete),
      ),
      session(
        Mode.DRAINS,
        requestFrame(13, Flag.END_HEADERS),
        rawFrame(FrameType.DATA, Flag.PADDED, 13, Buffer.from([1, 7, 7, 7, 7, 7, 0])),
        rawFrame(FrameType.HEADERS, complete, 13, headerBytes([["x-end", "yes"]])),
        rawFrame(FrameType.PING, Flag.ACK, 0, Buffer.from("hm-drain")),
      ),
      session(
        Mode.TIME_PASSES,
        rawFrame(FrameType.HEADERS, 0, 1, headerBytes(getRoot).subarray(0, 2)),
        rawFrame(FrameType.CONTINUATION, Flag.END_HEADERS, 1, headerBytes(getRoot).subarray(2)),
        rawFrame(FrameType.PRIORITY, 0, 1, Buffer.of(0, 0, 0, 3, 1)),
        rawFrame(FrameType.GOAWAY, 0, 0, Buffer.concat([uint32(0), uint32(0)])),
      ),
    ],
    run: (input) => runSession(openServer, input),
  },
  {
    name: "client",
    framesFrom: 1,
    seeds: [
      session(
        0,
        rawFrame(FrameType.HEADERS, Flag.END_HEADERS, 1, headerBytes([[":status", "103"]])),
        rawFrame(FrameType.HEADERS, Flag.END_HEADERS, 1, responseHead),
        rawFrame(FrameType.DATA, 0, 1, hello),
        rawFrame(FrameType.HEADERS, complete, 1, trailers),
        rawFrame(FrameType.HEADERS, complete, 3, responseHead),
      ),
      session(
        Mode.STALLED | Mode.TIME_PASSES,
        rawFrame(
          FrameType.HEADERS,
          Flag.END_HEADERS,
          5,
          headerBytes([
            [":status", "200"],
            ["content-length", "5"],
          ]),
        ),
        rawFrame(FrameType.DATA, Flag.END_STREAM, 5, hello),
        rawFrame(
          FrameType.HEADERS,
          complete,
          9,
          headerBytes([
            [":status", "200"],
            ["content-length", "5"],
          ]),
        ),
        rawFrame(FrameType.RST_STREAM, 0, 7, uint32(7)),
        rawFrame(FrameType.GOAWAY, 0, 0, Buffer.concat([uint32(3), uint32(0)])),
      ),
    ],
    run: (input) => runSession(openClient, input),
  },
];
