/**
 * Whether the key store and the records belong together: every authority that may still sign has its key, and keys that
 * no record names are dropped. A mismatch is refused with its repair; nothing here heals it by making a new authority.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { AuthorityRecord } from '../store/store.ts';
import type { KeyStore } from './keys.ts';

/**
 * @param mark stands in the names of keys made for this store
 * @throws conflict `authority.key.missing|mismatch|foreign`, and what the key store throws
 */
export async function matchKeys(
  records: readonly AuthorityRecord[],
  keys: Pick<KeyStore, 'list' | 'forget'>,
  mark: string,
): Promise<void> {
  const stored = new Map((await keys.list()).map((key) => [key.name, key]));
  for (const record of records) {
    const key = stored.get(record.keyName);
    if (key !== undefined && Buffer.compare(key.publicKey, record.publicKey) !== 0) {
      throw new SpiffeError(
        'conflict',
        'authority.key.mismatch',
        `the key ${record.keyName} is not that of the ${record.kind} authority ${record.id}: ${repair}`,
        { detail: { key: record.keyName, authority: record.id } },
      );
    }
    // An old one signs nothing any more.
    if (key === undefined && record.state !== 'old') {
      throw new SpiffeError(
        'conflict',
        'authority.key.missing',
        `the store knows the ${record.kind} authority ${record.id}, but its key ${record.keyName} is not there: ${repair}`,
        { detail: { key: record.keyName, authority: record.id } },
      );
    }
  }
  const named = new Set(records.map((record) => record.keyName));
  const left = [...stored.keys()].filter((name) => !named.has(name));
  const foreign = left.find((name) => !name.includes(`-${mark}-`));
  // With an empty store and somebody's keys, the store is what got lost.
  if (records.length === 0 && foreign !== undefined) {
    throw new SpiffeError(
      'conflict',
      'authority.key.foreign',
      `the key ${foreign} was made for another store, and this one knows no authority: ${repair}, or move the old keys away`,
      { detail: { key: foreign } },
    );
  }
  for (const name of left) await keys.forget(name);
}

const repair = 'restore store and keys from the same backup (steeple server restore)';
