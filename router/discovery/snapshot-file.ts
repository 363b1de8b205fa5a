import { open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { Logger } from "#kernel/log.ts";
import { type IndexedSnapshot, indexSnapshot, snapshotMessage } from "./snapshot.ts";

/**
 * The last snapshot on disk, so that a router that restarts while the control plane is away still serves. The file
 * holds link tokens, hence mode 0600. A crash at any moment leaves the old file or the new one, never a torn one.
 */
export class SnapshotFile {
  readonly #path: string;
  readonly #logger: Logger;
  /** What to write next; a newer snapshot replaces an older one that waits. */
  #waiting: IndexedSnapshot | undefined;
  #writing: Promise<void> | undefined;

  constructor(stateDir: string, logger: Logger) {
    this.#path = join(stateDir, "snapshot.binpb");
    this.#logger = logger;
  }

  /** Undefined when there is none or it cannot be read (logged): the control plane will send another. */
  async load(): Promise<IndexedSnapshot | undefined> {
    let bytes: Buffer;
    try {
      bytes = await readFile(this.#path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
        this.#logger.warn("snapshot file not readable", { path: this.#path, error });
      }
      return undefined;
    }
    try {
      return indexSnapshot(fromBinary(SnapshotSchema, bytes));
    } catch (error) {
      this.#logger.warn("snapshot file is damaged and ignored", { path: this.#path, error });
      return undefined;
    }
  }

  /** Writes soon; failures are logged, since serving goes on without the file. */
  save(snapshot: IndexedSnapshot): void {
    this.#waiting = snapshot;
    this.#writing ??= this.#writeAll();
  }

  /** Resolves when everything saved so far is on disk. */
  async flush(): Promise<void> {
    await this.#writing;
  }

  async #writeAll(): Promise<void> {
    while (this.#waiting) {
      const snapshot = this.#waiting;
      this.#waiting = undefined;
      try {
        await this.#write(toBinary(SnapshotSchema, snapshotMessage(snapshot)));
      } catch (error) {
        this.#logger.error("snapshot file not written", { path: this.#path, error });
      }
    }
    this.#writing = undefined;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    const temporary = `${this.#path}.new`;
    const file = await open(temporary, "w", 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, this.#path);
  }
}
