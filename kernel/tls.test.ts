import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { otherKey, testCertificate, testKey } from "#kernel/test-certificate.ts";
import { loadTls } from "#kernel/tls.ts";

const dir = mkdtempSync(join(tmpdir(), "helixmesh-tls-"));
afterAll(() => rmSync(dir, { recursive: true }));

function file(name: string, text: string): string {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
}

const certPath = file("cert.pem", testCertificate);
const keyPath = file("key.pem", testKey);

test("loads a certificate and its key, and nothing when neither is set", () => {
  expect(loadTls({ certPath, keyPath })?.cert.toString()).toBe(testCertificate);
  expect(loadTls({ certPath: undefined, keyPath: undefined })).toBeUndefined();
});

test.each([
  ["a certificate without a key", { certPath, keyPath: undefined }, "without its key"],
  ["a key without a certificate", { certPath: undefined, keyPath }, "without a certificate"],
  ["a missing file", { certPath: join(dir, "none"), keyPath }, "cannot read the TLS certificate"],
  ["a file that is no certificate", { certPath: file("junk", "junk"), keyPath }, "is no PEM certificate"],
  ["a file that is no key", { certPath, keyPath: certPath }, "is no PEM private key"],
  ["another's key", { certPath, keyPath: file("other.pem", otherKey) }, "does not belong to"],
])("refuses %s", (_, paths, message) => {
  expect(() => loadTls(paths)).toThrow(message);
});
