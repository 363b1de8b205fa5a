import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/** https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#file-structure */
const ggufMagic = "GGUF";
const ggufVersions: readonly number[] = [2, 3];
const chunkBytes = 1 << 20;

export interface VerifyOptions {
  /** Hex; empty checks no digest, only that the file is a GGUF file. */
  readonly sha256: string;
  readonly onProgress: (share: number) => void;
  readonly signal: AbortSignal;
}

/** Reads the file once and rejects with a MeshError that says what is wrong with it and what to do. */
export async function verifyModelFile(path: string, options: VerifyOptions): Promise<void> {
  const file = await openFile(path);
  try {
    const { size } = await file.stat();
    await checkMagic(file, path);
    if (options.sha256 === "") {
      options.onProgress(1);
      return;
    }
    const digest = await digestOf(file, size, options);
    if (digest === options.sha256.toLowerCase()) return;
    throw wrong(
      `${path} has the SHA-256 ${digest}, not ${options.sha256}; the file is damaged or another version.`,
      "sha256",
    );
  } finally {
    await file.close();
  }
}

async function digestOf(file: FileHandle, size: number, { onProgress, signal }: VerifyOptions): Promise<string> {
  const hash = createHash("sha256");
  const buffer = Buffer.allocUnsafe(chunkBytes);
  let position = 0;
  while (position < size) {
    signal.throwIfAborted();
    const { bytesRead } = await file.read(buffer, 0, chunkBytes, position);
    if (bytesRead === 0) break;
    hash.update(buffer.subarray(0, bytesRead));
    position += bytesRead;
    onProgress(position / size);
  }
  return hash.digest("hex");
}

async function checkMagic(file: FileHandle, path: string): Promise<void> {
  const head = Buffer.alloc(8);
  const { bytesRead } = await file.read(head, 0, 8, 0);
  if (bytesRead < 8 || head.toString("latin1", 0, 4) !== ggufMagic) {
    throw wrong(`${path} is no GGUF file; convert the model with llama.cpp's convert_hf_to_gguf.py first.`, "source");
  }
  const version = head.readUInt32LE(4);
  if (!ggufVersions.includes(version)) {
    throw wrong(
      `${path} is GGUF version ${version}; this engine reads versions ${ggufVersions.join(" and ")}.`,
      "source",
    );
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    const file = await open(path, "r");
    if ((await file.stat()).isFile()) return file;
    await file.close();
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "unreadable";
    const why = code === "ENOENT" ? "does not exist on this node" : `cannot be read by the agent (${code})`;
    throw wrong(`The model file ${path} ${why}.`, "source", cause);
  }
  throw wrong(`${path} is no file.`, "source");
}

function wrong(message: string, field: string, cause?: unknown): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message, { field, cause });
}
