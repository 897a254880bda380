/**
 * What the agent knows of itself across restarts: its SVID with the key, the one before until the new one was used, and
 * the trust domain's bundle. Two files in the data directory, owner-only, each replaced as a whole.
 */
import path from 'node:path';
import { formatBundleDocument, parseBundleDocument } from '../../spiffe/bundle-document.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { parseX509Svid, type X509Svid } from '../../spiffe/x509-svid.ts';
import { readPrivateFile, removeFile, writePrivateFile } from '../../runtime/files.ts';

export interface NodeState {
  readonly svid: X509Svid;
  readonly reattestable: boolean;
  /** Half life with a jitter that was drawn once. */
  readonly renewAt: number;
  /** Kept until the server has seen the newer one. */
  readonly previous: X509Svid | undefined;
}

export interface NodeStateFiles {
  /** @throws denied `files.*`, invalid `state.unreadable` */
  readState(): Promise<NodeState | undefined>;
  writeState(state: NodeState): Promise<void>;
  readBundle(): Promise<Bundle | undefined>;
  writeBundle(bundle: Bundle): Promise<void>;
  /** The SVIDs go; the bundle stays trusted. */
  forgetState(): Promise<void>;
}

interface StoredSvid {
  readonly chain: readonly string[];
  readonly key: string;
}

interface StoredState {
  readonly version: 1;
  readonly svid: StoredSvid;
  readonly reattestable: boolean;
  readonly renewAt: number;
  readonly previous: StoredSvid | null;
}

export function nodeStateFiles(directory: string, trustDomain: TrustDomain): NodeStateFiles {
  const stateFile = path.join(directory, 'agent.json');
  const bundleFile = path.join(directory, 'bundle.json');
  return {
    readState: () =>
      reading(stateFile, (bytes) => {
        const stored = JSON.parse(bytes.toString('utf8')) as StoredState;
        if (stored.version !== 1) throw new Error(`version ${String(stored.version)}`);
        return {
          svid: svidOf(stored.svid),
          reattestable: stored.reattestable,
          renewAt: stored.renewAt,
          previous: stored.previous === null ? undefined : svidOf(stored.previous),
        };
      }),
    writeState(state) {
      const stored: StoredState = {
        version: 1,
        svid: storedOf(state.svid),
        reattestable: state.reattestable,
        renewAt: state.renewAt,
        previous: state.previous === undefined ? null : storedOf(state.previous),
      };
      return writePrivateFile(stateFile, JSON.stringify(stored));
    },
    readBundle: () => reading(bundleFile, (bytes) => parseBundleDocument(bytes, trustDomain)),
    writeBundle: (bundle) => writePrivateFile(bundleFile, formatBundleDocument(bundle)),
    forgetState: () => removeFile(stateFile),
  };
}

async function reading<T>(file: string, parse: (bytes: Buffer) => T): Promise<T | undefined> {
  let bytes: Buffer;
  try {
    bytes = await readPrivateFile(file);
  } catch (error) {
    if (isSpiffeError(error, 'missing')) return undefined;
    throw error;
  }
  try {
    return parse(bytes);
  } catch (cause) {
    throw new SpiffeError('invalid', 'state.unreadable', `${file} is not what this program wrote; remove it to start anew`, { cause });
  }
}

function storedOf(svid: X509Svid): StoredSvid {
  return {
    chain: svid.chain.map((der) => Buffer.from(der).toString('base64')),
    key: svid.privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64'),
  };
}

function svidOf(stored: StoredSvid): X509Svid {
  return parseX509Svid({
    chain: stored.chain.map((text) => Buffer.from(text, 'base64')),
    pkcs8Key: Buffer.from(stored.key, 'base64'),
  });
}
