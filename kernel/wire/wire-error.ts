/** RFC 9113, 7. Peers may send others, so a received code is a plain number. */
export const ErrorCode = {
  NO_ERROR: 0x0,
  PROTOCOL_ERROR: 0x1,
  INTERNAL_ERROR: 0x2,
  FLOW_CONTROL_ERROR: 0x3,
  SETTINGS_TIMEOUT: 0x4,
  STREAM_CLOSED: 0x5,
  FRAME_SIZE_ERROR: 0x6,
  REFUSED_STREAM: 0x7,
  CANCEL: 0x8,
  COMPRESSION_ERROR: 0x9,
  CONNECT_ERROR: 0xa,
  ENHANCE_YOUR_CALM: 0xb,
  INADEQUATE_SECURITY: 0xc,
  HTTP_1_1_REQUIRED: 0xd,
} as const;

/** A fault that ends a connection; `message` travels as GOAWAY debug data. Decoders throw nothing else. */
export class WireError extends Error {
  override readonly name = "WireError";
  /** One of `ErrorCode`. */
  readonly code: number;

  constructor(code: number, message: string, options?: { readonly cause: unknown }) {
    super(message, options);
    this.code = code;
  }
}
