/**
 * Keys in a directory of their own that only the server's user may enter: one file for each, PKCS#8, sealed when there is
 * something to seal with. They are read once, when opened; from then on the private halves stay in memory.
 */
import { createPrivateKey, type KeyObject } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ensurePrivateDirectory, readPrivateFile, removeFile, writePrivateFile } from '../../runtime/files.ts';
import { seal, unseal, type SealingSecret } from '../../runtime/seal.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { generatePair, pairOf, signWith, typeOfKey, type KeyPair } from './key-pair.ts';
import type { KeyStore } from './keys.ts';

export interface DiskKeysOptions {
  readonly directory: string;
  /** What new files are sealed with, and plain ones at once; without it whoever reads the disk has the keys. */
  readonly secret: SealingSecret | undefined;
}

const ending = { sealed: '.sealed', plain: '.key' } as const;
const nameForm = /^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$/;
const maxFileBytes = 64 * 1024;

/**
 * Reads all keys of the directory, which is made when it is not there. One process at a time may have it open.
 * @throws denied `keys.mode|owner|secret`, invalid `keys.broken`, unavailable `keys.unavailable`
 */
export async function openDiskKeyStore(options: DiskKeysOptions): Promise<KeyStore> {
  const { directory, secret } = options;
  await translated(() => ensurePrivateDirectory(directory));
  const pairs = new Map<string, Promise<KeyPair>>();
  for (const file of await keyFiles(directory)) {
    // One after the other: a passphrase costs memory for each file.
    const pair = await translated(() => readPair(file, secret));
    // Written plain before sealing was configured.
    if (!file.sealed && secret !== undefined) await translated(() => sealFile(options, file, pair));
    pairs.set(file.name, Promise.resolve(pair));
  }
  // Files are changed one at a time, so that a forgotten key cannot come back from a slower write of the same name.
  let writing: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const done = writing.then(() => translated(work));
    writing = done.catch(() => undefined);
    return done;
  };

  return {
    async generate(name, type) {
      if (!nameForm.test(name)) throw new SpiffeError('internal', 'keys.name', `a key cannot be called ${name}`);
      if (pairs.has(name)) throw new SpiffeError('exists', 'keys.exists', `there is a key ${name} already`);
      const making = inTurn(async () => {
        const pair = await generatePair(type);
        await writePrivateFile(fileOf(options, name), await encodePair(pair, name, secret));
        return pair;
      });
      pairs.set(name, making);
      try {
        const { publicKey } = await making;
        return { name, type, publicKey };
      } catch (error) {
        pairs.delete(name);
        throw error;
      }
    },
    async list() {
      const found = await Promise.allSettled([...pairs].map(async ([name, making]) => ({ name, pair: await making })));
      return found.flatMap((result) =>
        result.status === 'fulfilled'
          ? [{ name: result.value.name, type: result.value.pair.type, publicKey: result.value.pair.publicKey }]
          : [],
      );
    },
    async sign(name, data, form) {
      const pair = await pairs.get(name);
      if (pair === undefined) throw new SpiffeError('missing', 'keys.missing', `there is no key ${name}`);
      return signWith(pair, data, form);
    },
    forget(name) {
      return inTurn(async () => {
        if (!nameForm.test(name)) return;
        await removeFile(fileOf(options, name));
        pairs.delete(name);
      });
    },
    async close() {
      await writing;
      pairs.clear();
    },
  };
}

function fileOf({ directory, secret }: DiskKeysOptions, name: string): string {
  return join(directory, `${name}${secret === undefined ? ending.plain : ending.sealed}`);
}

interface KeyFile {
  readonly name: string;
  readonly path: string;
  readonly sealed: boolean;
}

async function keyFiles(directory: string): Promise<readonly KeyFile[]> {
  const found = new Map<string, KeyFile>();
  // Of a key in both forms, left by a crash while it was being sealed, the sealed one counts: it comes after the plain.
  for (const file of (await translated(() => readdir(directory))).toSorted()) {
    const path = join(directory, file);
    const sealed = file.endsWith(ending.sealed);
    if (file.startsWith('.')) {
      // Left by an interrupted write, and never used.
      await translated(() => removeFile(path));
    } else if (sealed || file.endsWith(ending.plain)) {
      const name = file.slice(0, -(sealed ? ending.sealed : ending.plain).length);
      if (!nameForm.test(name)) throw broken(path);
      const other = found.get(name);
      if (other !== undefined) await translated(() => removeFile(other.path));
      found.set(name, { name, path, sealed });
    }
  }
  return [...found.values()];
}

async function sealFile(options: DiskKeysOptions, file: KeyFile, pair: KeyPair): Promise<void> {
  await writePrivateFile(fileOf(options, file.name), await encodePair(pair, file.name, options.secret));
  await removeFile(file.path);
}

async function readPair({ name, path, sealed }: KeyFile, secret: SealingSecret | undefined): Promise<KeyPair> {
  const content = await readPrivateFile(path, maxFileBytes);
  const plain = sealed ? await unsealed(content, secret, name, path) : content;
  let key: KeyObject;
  try {
    key = createPrivateKey({ key: plain, format: sealed ? 'der' : 'pem', type: 'pkcs8' });
  } catch {
    // The parser's own error could quote what it read.
    throw broken(path);
  } finally {
    plain.fill(0);
  }
  const type = typeOfKey(key);
  if (type === undefined) throw broken(path);
  return pairOf(type, key);
}

async function unsealed(content: Uint8Array, secret: SealingSecret | undefined, name: string, path: string): Promise<Buffer> {
  if (secret === undefined) {
    throw new SpiffeError('denied', 'keys.secret', `${path} is sealed: configure the key file or passphrase it was sealed with`, {
      detail: { path },
    });
  }
  try {
    return await unseal(content, secret, purposeOf(name));
  } catch (cause) {
    if (isSpiffeError(cause, 'denied')) {
      throw new SpiffeError('denied', 'keys.secret', `${path} does not open with the configured key file or passphrase`, {
        detail: { path, reason: cause.reason },
        cause,
      });
    }
    throw isSpiffeError(cause) ? broken(path, cause) : cause;
  }
}

async function encodePair(pair: KeyPair, name: string, secret: SealingSecret | undefined): Promise<string | Uint8Array> {
  if (secret === undefined) return pair.privateKey.export({ type: 'pkcs8', format: 'pem' });
  const plain = pair.privateKey.export({ type: 'pkcs8', format: 'der' });
  try {
    return await seal(plain, secret, purposeOf(name));
  } finally {
    plain.fill(0);
  }
}

/** Ties a container to its name, so that one file cannot be put in another's place. */
function purposeOf(name: string): string {
  return `steeple server key ${name}`;
}

function broken(path: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'keys.broken', `${path} is not a key of this server: restore it from a backup`, {
    detail: { path },
    cause,
  });
}

/** What the file system said, in the words of this store. */
async function translated<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) {
      throw new SpiffeError('unavailable', 'keys.unavailable', 'the signing keys cannot be reached', { cause });
    }
    const context = { detail: cause.detail, cause };
    switch (cause.reason) {
      case 'files.mode':
        throw new SpiffeError('denied', 'keys.mode', cause.message, context);
      case 'files.owner':
        throw new SpiffeError('denied', 'keys.owner', cause.message, context);
      default:
        if (cause.reason.startsWith('files.')) throw new SpiffeError('unavailable', 'keys.unavailable', cause.message, context);
        throw cause;
    }
  }
}
