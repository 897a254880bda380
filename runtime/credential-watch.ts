/**
 * A server's certificate and key as files that others replace: read at the start, then looked at every few seconds and
 * followed when both fit together again. What they are shown to is left to the servers.
 */
import { realpath } from 'node:fs/promises';
import { SpiffeError } from '../spiffe/errors.ts';
import type { Clock } from './clock.ts';
import { readPrivateFile, readTrustedFile, translated } from './files.ts';
import { checkCredentials } from './https-serve.ts';
import type { ServerCredentials } from './https-serve.ts';
import { createWatch } from './watch.ts';
import type { Watch } from './watch.ts';

export interface CredentialFilesOptions {
  readonly clock: Clock;
  /** PEM; the chain with the leaf first. */
  readonly certificateFile: string;
  /** PEM; owner-only. Links are followed on the way to it, as those who renew certificates keep the newest behind one. */
  readonly keyFile: string;
  /** Told once when files are of no use, while the last good ones stay in use; and with `undefined` once they are again. */
  readonly onProblem: (problem: unknown) => void;
}

export interface CredentialFiles {
  readonly credentials: Watch<ServerCredentials>;
  /** Until the signal aborts. */
  run(signal: AbortSignal): Promise<void>;
}

const lookMs = 5_000;
const maxBytes = 1024 * 1024;

/** @throws as `readPrivateFile`; invalid `https.credentials` */
export async function openCredentialFiles(options: CredentialFilesOptions): Promise<CredentialFiles> {
  const { clock } = options;
  const source = createWatch(await read(options));
  /** Looked at once more before it is told: who replaces two files is in between for a moment. */
  let failures = 0;

  const look = async (): Promise<void> => {
    try {
      const found = await read(options);
      const { value } = source;
      if (found.certificate !== value.certificate || found.key !== value.key) source.set(found);
      if (failures > 1) options.onProblem(undefined);
      failures = 0;
    } catch (error) {
      failures += 1;
      if (failures === 2) options.onProblem(error);
    }
  };
  return {
    credentials: source,
    async run(signal) {
      while (!signal.aborted) {
        try {
          await clock.sleep(lookMs, signal);
        } catch {
          return;
        }
        await look();
      }
    },
  };
}

async function read({ certificateFile, keyFile }: CredentialFilesOptions): Promise<ServerCredentials> {
  const certificate = String(await readTrustedFile(certificateFile, maxBytes));
  const target = await translated(keyFile, () => realpath(keyFile));
  const found = { certificate, key: String(await readPrivateFile(target, maxBytes)) };
  if (!certificate.includes('-----BEGIN CERTIFICATE-----')) {
    throw new SpiffeError('invalid', 'https.credentials', `${certificateFile} holds no certificate in PEM`);
  }
  checkCredentials(found);
  return found;
}
