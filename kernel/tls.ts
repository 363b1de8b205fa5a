import { X509Certificate, createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";

export interface TlsFiles {
  readonly cert: Buffer;
  readonly key: Buffer;
}

/**
 * Reads a PEM certificate chain (leaf first) and its private key; undefined when neither path is set. Throws an error
 * that names the file and says what is wrong with it.
 */
export function loadTls(paths: {
  readonly certPath: string | undefined;
  readonly keyPath: string | undefined;
}): TlsFiles | undefined {
  const { certPath, keyPath } = paths;
  if (certPath === undefined && keyPath === undefined) return undefined;
  if (certPath === undefined) throw new Error(`TLS key ${keyPath} is set without a certificate; set both or neither`);
  if (keyPath === undefined) throw new Error(`TLS certificate ${certPath} is set without its key; set both or neither`);
  const cert = attempt(`cannot read the TLS certificate ${certPath}`, () => readFileSync(certPath));
  const key = attempt(`cannot read the TLS key ${keyPath}`, () => readFileSync(keyPath));
  const leaf = attempt(`${certPath} is no PEM certificate`, () => new X509Certificate(cert));
  const privateKey = attempt(`${keyPath} is no PEM private key without a passphrase`, () => createPrivateKey(key));
  if (!leaf.checkPrivateKey(privateKey)) {
    throw new Error(`the TLS key ${keyPath} does not belong to the first certificate in ${certPath}`);
  }
  return { cert, key };
}

function attempt<T>(message: string, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    throw new Error(`${message}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
