import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { create } from "@bufbuild/protobuf";
import { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { fetchModel } from "./fetch.ts";

let dir = "";
beforeEach(async () => void (dir = await mkdtemp(join(tmpdir(), "helixmesh-models-"))));
afterEach(() => rm(dir, { recursive: true }));

const never = new AbortController().signal;
const pocketSha256 = "0c4cccde676595671177c5acfbc7ac96f847a062e627ccf7a786c1e5edf33f9f";

function fetch(source: string, sha256 = "", onProgress: (share: number) => void = () => {}): Promise<string> {
  const desired = create(DesiredReplicaSchema, { source, sha256, engine: EngineKind.LLAMA_CPP });
  return fetchModel(desired, onProgress, never);
}
async function failure(source: string, sha256 = ""): Promise<string> {
  return fetch(source, sha256).then(
    () => "it was accepted",
    (error: unknown) => MeshError.from(error).message,
  );
}
async function fileWith(bytes: string): Promise<string> {
  const path = join(dir, "model.gguf");
  await writeFile(path, Buffer.from(bytes, "latin1"));
  return pathToFileURL(path).href;
}

describe("fetchModel", () => {
  test("finds and verifies the model that comes with the package", async () => {
    const progress: number[] = [];
    const path = await fetch("builtin:pocket", pocketSha256, (share) => void progress.push(share));
    expect(path).toMatch(/models\/pocket\/pocket-1\.8m-f16\.gguf$/);
    expect(progress.at(-1)).toBe(1);
    expect(progress).toEqual(progress.toSorted((a, b) => a - b));
  });

  test("takes a file by its URL", async () => {
    expect(await fetch(await fileWith("GGUF\x03\0\0\0rest"))).toBe(join(dir, "model.gguf"));
  });

  test("needs no file for the simulator", async () => {
    const desired = create(DesiredReplicaSchema, { engine: EngineKind.SIM });
    expect(await fetchModel(desired, () => {}, never)).toBe("");
  });

  test("names both digests when they differ", async () => {
    expect(await failure("builtin:pocket", "ab".repeat(32))).toMatch(new RegExp(`${pocketSha256}.*${"ab".repeat(32)}`));
  });

  test("says what a wrong file is", async () => {
    expect(await failure(await fileWith("PK\x03\x04 a zip file"))).toContain("no GGUF file");
    expect(await failure(await fileWith("GG"))).toContain("no GGUF file");
    expect(await failure(await fileWith("GGUF\x09\0\0\0"))).toContain("GGUF version 9");
    expect(await failure(`file://${dir}/missing.gguf`)).toContain("does not exist on this node");
    expect(await failure(pathToFileURL(dir).href)).toContain("no file");
  });

  test("says which sources there are", async () => {
    expect(await failure("builtin:huge")).toContain("builtin:pocket");
    expect(await failure("s3://bucket/key")).toContain("file:///");
    expect(await failure("file://host/share")).toContain("file:///");
    expect(await failure("")).toContain("builtin:pocket");
  });

  test("stops when it is aborted", async () => {
    const desired = create(DesiredReplicaSchema, {
      source: "builtin:pocket",
      sha256: pocketSha256,
      engine: EngineKind.LLAMA_CPP,
    });
    await expect(fetchModel(desired, () => {}, AbortSignal.abort())).rejects.toThrow(/aborted/);
  });
});
