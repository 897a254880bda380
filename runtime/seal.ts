/**
 * Sealed containers: bytes encrypted and authenticated with AES-256-GCM under a random key or a passphrase, with a
 * versioned header. Where keys and containers are kept is left to others.
 */
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes, scrypt } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { SpiffeError } from '../spiffe/errors.ts';

/**
 * What a container is sealed with. `key` is a 256-bit secret key; a passphrase goes through scrypt with a salt of its own
 * for every container.
 */
export type SealingSecret =
  | { readonly type: 'key'; readonly key: KeyObject }
  | { readonly type: 'passphrase'; readonly passphrase: string };

// Header: magic, version, kind of secret, log2 of scrypt's N, salt, nonce. All of it is authenticated.
const magic = Buffer.from('STPL', 'latin1');
const version = 1;
const kinds = { key: 1, passphrase: 2 } as const;
const saltBytes = 16;
const nonceBytes = 12;
const tagBytes = 16;
const headerBytes = magic.length + 3 + saltBytes + nonceBytes;
const keyBytes = 32;
// 128 MiB and about half a second: a file stolen from a disk is attacked offline. [RFC 7914 2]
const scryptLog2N = 17;
const scryptR = 8;

export function generateSealingKey(): KeyObject {
  return createSecretKey(randomBytes(keyBytes));
}

/**
 * A sealing key from the 32 raw bytes of a key file.
 * @throws invalid `seal.key.length`
 */
export function sealingKey(bytes: Uint8Array): KeyObject {
  if (bytes.length !== keyBytes) {
    throw new SpiffeError('invalid', 'seal.key.length', `sealing key has ${bytes.length} bytes, ${keyBytes} are needed`);
  }
  return createSecretKey(bytes);
}

/**
 * @param purpose authenticated but not stored: a container opens only under the purpose it was sealed for, so one file
 * cannot be passed off as another
 */
export async function seal(content: Uint8Array, secret: SealingSecret, purpose: string): Promise<Buffer> {
  const log2N = secret.type === 'passphrase' ? scryptLog2N : 0;
  const salt = randomBytes(saltBytes);
  const nonce = randomBytes(nonceBytes);
  const header = Buffer.concat([magic, Buffer.from([version, kinds[secret.type], log2N]), salt, nonce]);
  const cipher = createCipheriv('aes-256-gcm', await containerKey(secret, salt, log2N), nonce, { authTagLength: tagBytes });
  cipher.setAAD(associatedData(header, purpose));
  const body = Buffer.concat([cipher.update(content), cipher.final()]);
  return Buffer.concat([header, body, cipher.getAuthTag()]);
}

/**
 * @throws invalid `seal.format`, unsupported `seal.version`, denied `seal.secret` (sealed with another kind of secret),
 * denied `seal.broken` (wrong secret, wrong purpose, or changed)
 */
export async function unseal(container: Uint8Array, secret: SealingSecret, purpose: string): Promise<Buffer> {
  const bytes = Buffer.from(container.buffer, container.byteOffset, container.byteLength);
  if (bytes.length < headerBytes + tagBytes || !bytes.subarray(0, magic.length).equals(magic)) {
    throw new SpiffeError('invalid', 'seal.format', 'not a sealed container');
  }
  const header = bytes.subarray(0, headerBytes);
  if (header[4] !== version) {
    throw new SpiffeError('unsupported', 'seal.version', `sealed container has version ${header[4]}, this program reads 1`);
  }
  if (header[5] !== kinds[secret.type]) {
    throw new SpiffeError('denied', 'seal.secret', `sealed container needs a ${header[5] === 1 ? 'key' : 'passphrase'}`);
  }
  const log2N = header[6] ?? 0;
  // Not authenticated before the key is derived, so a forged cost must not be able to exhaust memory.
  if (secret.type === 'passphrase' && (log2N < 14 || log2N > 20)) {
    throw new SpiffeError('invalid', 'seal.format', 'sealed container asks for an unreasonable key derivation cost');
  }
  const salt = header.subarray(7, 7 + saltBytes);
  const nonce = header.subarray(7 + saltBytes);
  const tagAt = bytes.length - tagBytes;
  const decipher = createDecipheriv('aes-256-gcm', await containerKey(secret, salt, log2N), nonce, { authTagLength: tagBytes });
  decipher.setAAD(associatedData(header, purpose));
  decipher.setAuthTag(bytes.subarray(tagAt));
  const content = decipher.update(bytes.subarray(headerBytes, tagAt));
  try {
    return Buffer.concat([content, decipher.final()]);
  } catch (cause) {
    throw new SpiffeError('denied', 'seal.broken', 'sealed container does not open: wrong secret, or it was changed', { cause });
  }
}

function associatedData(header: Uint8Array, purpose: string): Buffer {
  return Buffer.concat([header, Buffer.from(purpose, 'utf8')]);
}

function containerKey(secret: SealingSecret, salt: Uint8Array, log2N: number): Promise<KeyObject> {
  if (secret.type === 'key') return Promise.resolve(secret.key);
  const N = 2 ** log2N;
  return new Promise((resolve, reject) => {
    scrypt(secret.passphrase.normalize('NFKC'), salt, keyBytes, { N, r: scryptR, p: 1, maxmem: 256 * N * scryptR }, (error, key) => {
      if (error === null) resolve(createSecretKey(key));
      else reject(error);
    });
  });
}
