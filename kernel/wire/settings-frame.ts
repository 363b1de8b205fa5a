import type { ByteBuffer } from "#kernel/wire/byte-buffer.ts";
import { maxWindowBytes } from "#kernel/wire/flow.ts";
import { FrameType, appendFrameHeader, appendUint32, maxFrameBytes } from "#kernel/wire/frame.ts";
import { ErrorCode, WireError } from "#kernel/wire/wire-error.ts";

/** RFC 9113, 6.5.2. */
export const Setting = {
  HEADER_TABLE_SIZE: 0x1,
  ENABLE_PUSH: 0x2,
  MAX_CONCURRENT_STREAMS: 0x3,
  INITIAL_WINDOW_SIZE: 0x4,
  MAX_FRAME_SIZE: 0x5,
  MAX_HEADER_LIST_SIZE: 0x6,
} as const;

const settingBytes = 6;

export function appendSettings(out: ByteBuffer, settings: readonly (readonly [id: number, value: number])[]): void {
  appendFrameHeader(out, FrameType.SETTINGS, 0, 0, settings.length * settingBytes);
  for (const [id, value] of settings) {
    out.bytes.writeUInt16BE(id, out.end);
    out.end += 2;
    appendUint32(out, value);
  }
}

/** Those that matter to us; the last value of a frame holds. */
export interface PeerSettings {
  headerTableBytes?: number;
  maxConcurrentStreams?: number;
  initialWindowBytes?: number;
}

/** A SETTINGS payload. Throws for a value that RFC 9113, 6.5.2 forbids; unknown settings are ignored. */
export function readSettings(bytes: Buffer, start: number, end: number, from: "client" | "server"): PeerSettings {
  const settings: PeerSettings = {};
  for (let at = start; at + settingBytes <= end; at += settingBytes) {
    const value = bytes.readUInt32BE(at + 2);
    switch (bytes.readUInt16BE(at)) {
      case Setting.HEADER_TABLE_SIZE:
        settings.headerTableBytes = value;
        break;
      case Setting.ENABLE_PUSH:
        if (value > 1 || (value === 1 && from === "server")) throw fault("ENABLE_PUSH", value);
        break;
      case Setting.MAX_CONCURRENT_STREAMS:
        settings.maxConcurrentStreams = value;
        break;
      case Setting.INITIAL_WINDOW_SIZE:
        if (value > maxWindowBytes) throw fault("INITIAL_WINDOW_SIZE", value, ErrorCode.FLOW_CONTROL_ERROR);
        settings.initialWindowBytes = value;
        break;
      case Setting.MAX_FRAME_SIZE:
        if (value < maxFrameBytes || value > 0xff_ffff) throw fault("MAX_FRAME_SIZE", value);
        break;
      default:
    }
  }
  return settings;
}

function fault(name: string, value: number, code: number = ErrorCode.PROTOCOL_ERROR): WireError {
  return new WireError(code, `SETTINGS_${name} must not be ${value}`);
}
