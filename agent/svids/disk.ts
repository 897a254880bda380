/**
 * What a restarted agent finds again: holdings, X509-SVIDs and WIT-SVIDs with their keys, and JWT-SVIDs in one sealed file,
 * replaced as a whole. Sealing keeps the file from being read or changed without its key; it protects from nobody who can
 * read both.
 */
import { createPrivateKey, type KeyObject } from 'node:crypto';
import path from 'node:path';
import type { Bundle, JwtAuthority } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { checkPrivateDirectory, readPrivateFile, readTrustedFile, removeFile, writePrivateFile } from '../../runtime/files.ts';
import { generateSealingKey, seal, sealingKey, unseal, type SealingSecret } from '../../runtime/seal.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createAlarm } from '../alarm.ts';
import type { AuthorityNotice, Holdings, HoldingsSnapshot, Position } from '../sync/holdings.ts';
import type { HeldJwtSvid, HeldWitSvid, HeldX509Svid } from './held.ts';
import { keyPairOf, receiveJwt, receiveWit, receiveX509 } from './receive.ts';
import type { KeyPair } from './signer.ts';

export interface DiskContent {
  readonly holdings: HoldingsSnapshot;
  readonly x509: readonly HeldX509Svid[];
  readonly jwt: readonly HeldJwtSvid[];
  readonly wit: readonly HeldWitSvid[];
}

export interface DiskCacheOptions {
  /** Owner-only directory. */
  readonly directory: string;
  /** A file of 32 bytes to seal with; when absent a key is made beside the cache. */
  readonly keyFile: SealingKeyFile | undefined;
  readonly clock: Clock;
  /** What is to be found again, asked for when there is something to write. */
  readonly content: () => {
    readonly holdings: Holdings;
    readonly x509: Iterable<HeldX509Svid>;
    readonly jwt: Iterable<HeldJwtSvid>;
    readonly wit: Iterable<HeldWitSvid>;
  };
  /** A write or a read that failed; the agent goes on without. */
  readonly onProblem: (error: SpiffeError) => void;
}

/** `private`: this user's own and nobody else's. `credential`: put there by the service manager, which owns it. */
export interface SealingKeyFile {
  readonly path: string;
  readonly kind: 'private' | 'credential';
}

export interface DiskCache {
  /** What a former process left, or nothing; a file that does not open is refused, told and left to be replaced. */
  read(): Promise<DiskContent | undefined>;
  /** Something changed: written soon, several changes at once. */
  touch(): void;
  /** Writes after changes, and once more when the signal aborts. */
  run(signal: AbortSignal): Promise<void>;
}

const purpose = 'steeple agent cache 1';
const maxBytes = 256 * 1024 * 1024;
/** Long enough to write a burst once, short enough that little is lost when the process is killed. */
const gatherMs = 100;
/** Writing takes at most about this share of the time. */
const restFactor = 10;

interface Stored {
  readonly version: 1;
  readonly position: Position | undefined;
  readonly entries: readonly RegistrationEntry[];
  readonly bundles: readonly StoredBundle[];
  readonly authorities: readonly AuthorityNotice[];
  readonly x509: readonly StoredX509[];
  readonly jwt: readonly StoredJwt[];
  /** Absent in what an earlier agent wrote. */
  readonly wit?: readonly StoredWit[];
}

interface StoredX509 {
  readonly entryId: string;
  readonly revision: number;
  readonly chain: readonly string[];
  readonly key: string;
  readonly renewAt: number;
}

interface StoredJwt {
  readonly entryId: string;
  readonly revision: number;
  readonly audience: readonly string[];
  readonly token: string;
  readonly renewAt: number;
}

interface StoredWit {
  readonly entryId: string;
  readonly revision: number;
  readonly token: string;
  readonly key: string;
  readonly renewAt: number;
}

type StoredBundle = Omit<Bundle, 'sequence' | 'x509Authorities' | 'jwtAuthorities' | 'witAuthorities'> & {
  readonly sequence: string;
  readonly x509Authorities: readonly { readonly certificate: string; readonly tainted: boolean }[];
  readonly jwtAuthorities: readonly StoredKey[];
  /** Absent in what an earlier agent wrote. */
  readonly witAuthorities?: readonly StoredKey[];
};

type StoredKey = Omit<JwtAuthority, 'publicKey'> & { readonly publicKey: string };

export function createDiskCache(options: DiskCacheOptions): DiskCache {
  const { directory, clock, onProblem } = options;
  const file = path.join(directory, 'cache.sealed');
  const alarm = createAlarm(clock);
  let secret: SealingSecret | undefined;
  let dirty = false;

  const write = async (): Promise<void> => {
    dirty = false;
    try {
      secret ??= await readSecret(directory, options.keyFile);
      const content = Buffer.from(JSON.stringify(toStored(options.content())), 'utf8');
      try {
        await writePrivateFile(file, await seal(content, secret, purpose));
      } finally {
        content.fill(0);
      }
    } catch (error) {
      onProblem(asProblem('disk.write', 'the cache could not be written', error));
    }
  };

  return {
    async read() {
      try {
        await checkPrivateDirectory(directory);
        const sealed = await readPrivateFile(file, maxBytes);
        secret ??= await readSecret(directory, options.keyFile);
        return fromStored(JSON.parse((await unseal(sealed, secret, purpose)).toString('utf8')) as Stored);
      } catch (error) {
        if (!isSpiffeError(error, 'missing')) onProblem(asProblem('disk.read', 'the cache of a former process is not used', error));
        return undefined;
      }
    },
    touch() {
      dirty = true;
      alarm.ring();
    },
    async run(signal) {
      try {
        for (;;) {
          if (!dirty) await alarm.until(undefined, signal);
          await clock.sleep(gatherMs, signal);
          const startedAt = clock.monotonic();
          await write();
          await clock.sleep((clock.monotonic() - startedAt) * restFactor, signal);
        }
      } finally {
        if (dirty) await write();
      }
    },
  };
}

/** Removes what an earlier configuration left. @throws as `removeFile` */
export async function forgetDiskCache(directory: string): Promise<void> {
  await removeFile(path.join(directory, 'cache.sealed'));
  await removeFile(path.join(directory, 'cache.key'));
}

async function readSecret(directory: string, keyFile: SealingKeyFile | undefined): Promise<SealingSecret> {
  if (keyFile !== undefined) {
    const read = keyFile.kind === 'private' ? readPrivateFile : readTrustedFile;
    return { type: 'key', key: sealingKey(await read(keyFile.path, 1024)) };
  }
  const own = path.join(directory, 'cache.key');
  try {
    return { type: 'key', key: sealingKey(await readPrivateFile(own, 1024)) };
  } catch (error) {
    if (!isSpiffeError(error, 'missing')) throw error;
    const key = generateSealingKey();
    await writePrivateFile(own, key.export());
    return { type: 'key', key };
  }
}

function toStored(content: ReturnType<DiskCacheOptions['content']>): Stored {
  const { holdings } = content;
  const mayStore = (entryId: string): boolean => {
    const entry = holdings.entries.get(entryId);
    return entry !== undefined && !entry.forbidCache;
  };
  return {
    version: 1,
    position: holdings.position,
    // The entry itself stays: without it the process would be denied instead of asked to wait.
    entries: [...holdings.entries.values()],
    bundles: [...holdings.bundles.values()].map(storedBundle),
    authorities: [...holdings.authorities.values()],
    x509: [...content.x509]
      .filter((svid) => mayStore(svid.entryId))
      .map((svid) => ({
        entryId: svid.entryId,
        revision: svid.entryRevision,
        chain: svid.chain.map(base64),
        key: storedPrivateKey(svid.key),
        renewAt: svid.renewAt,
      })),
    jwt: [...content.jwt]
      .filter((svid) => mayStore(svid.entryId))
      .map((svid) => ({ entryId: svid.entryId, revision: svid.entryRevision, audience: svid.audience, token: svid.token, renewAt: svid.renewAt })),
    wit: [...content.wit]
      .filter((svid) => mayStore(svid.entryId))
      .map((svid) => ({
        entryId: svid.entryId,
        revision: svid.entryRevision,
        token: svid.token,
        key: storedPrivateKey(svid.key),
        renewAt: svid.renewAt,
      })),
  };
}

/** Authenticated by its seal, so of the form this program wrote; the credentials are read with the rules for new ones. */
function fromStored(stored: Stored): DiskContent {
  if (stored.version !== 1) throw new SpiffeError('unsupported', 'disk.version', 'the cache was written by another version');
  const entries = new Map(stored.entries.map((entry) => [entry.id, Object.freeze(revived(entry))]));
  const named = (id: string, revision: number): RegistrationEntry | undefined => {
    const entry = entries.get(id);
    return entry === undefined ? undefined : { ...entry, revisionNumber: revision };
  };
  return {
    holdings: {
      position: stored.position,
      entries: [...entries.values()],
      bundles: stored.bundles.map(bundleFromStored),
      authorities: stored.authorities,
    },
    x509: stored.x509.flatMap(({ entryId, revision, chain, key, renewAt }) => {
      const entry = named(entryId, revision);
      if (entry === undefined) return [];
      return usable(() => receiveX509(entry, chain.map(bytes), keysFromStored(key), atOnce), renewAt);
    }),
    wit: (stored.wit ?? []).flatMap(({ entryId, revision, token, key, renewAt }) => {
      const entry = named(entryId, revision);
      if (entry === undefined) return [];
      return usable(() => receiveWit(entry, token, keysFromStored(key), atOnce), renewAt);
    }),
    jwt: stored.jwt.flatMap(({ entryId, revision, audience, token, renewAt }) => {
      const entry = named(entryId, revision);
      if (entry === undefined) return [];
      return usable(() => receiveJwt({ entry, audience }, { token, issuedAt: 0, expiresAt: 0 }, atOnce), renewAt);
    }),
  };
}

function storedPrivateKey(key: KeyObject): string {
  return base64(key.export({ type: 'pkcs8', format: 'der' }));
}

function keysFromStored(key: string): KeyPair {
  return keyPairOf(createPrivateKey({ key: bytes(key), format: 'der', type: 'pkcs8' }));
}

/** Replaced by what was drawn when the SVID came. */
const atOnce = { at: 0, jitter: 0 };

/** An SVID of a name that the entry no longer has is not worth more than none. */
function usable<T extends object>(receive: () => T, renewAt: number): T[] {
  try {
    return [Object.freeze({ ...receive(), renewAt })];
  } catch (error) {
    if (isSpiffeError(error, 'invalid')) return [];
    throw error;
  }
}

/** JSON leaves out what is undefined. */
function revived(entry: RegistrationEntry): RegistrationEntry {
  return { ...entry, expiresAt: entry.expiresAt };
}

function storedBundle(bundle: Bundle): StoredBundle {
  return {
    ...bundle,
    sequence: bundle.sequence.toString(),
    x509Authorities: bundle.x509Authorities.map(({ certificate, tainted }) => ({ certificate: base64(certificate), tainted })),
    jwtAuthorities: bundle.jwtAuthorities.map(storedKey),
    witAuthorities: bundle.witAuthorities.map(storedKey),
  };
}

function bundleFromStored(stored: StoredBundle): Bundle {
  return Object.freeze({
    ...stored,
    sequence: BigInt(stored.sequence),
    x509Authorities: stored.x509Authorities.map(({ certificate, tainted }) => Object.freeze({ certificate: bytes(certificate), tainted })),
    jwtAuthorities: stored.jwtAuthorities.map(keyFromStored),
    witAuthorities: (stored.witAuthorities ?? []).map(keyFromStored),
  });
}

function storedKey(authority: JwtAuthority): StoredKey {
  return { ...authority, publicKey: base64(authority.publicKey) };
}

function keyFromStored(stored: StoredKey): JwtAuthority {
  return Object.freeze({ ...stored, publicKey: bytes(stored.publicKey), expiresAt: stored.expiresAt });
}

function base64(some: Uint8Array): string {
  return Buffer.from(some.buffer, some.byteOffset, some.byteLength).toString('base64');
}

function bytes(text: string): Buffer {
  return Buffer.from(text, 'base64');
}

function asProblem(reason: 'disk.read' | 'disk.write', message: string, cause: unknown): SpiffeError {
  if (isSpiffeError(cause)) {
    return new SpiffeError(cause.kind, reason, `${message}: ${cause.message}`, { detail: { because: cause.reason }, cause });
  }
  return new SpiffeError('internal', reason, message, { cause });
}
