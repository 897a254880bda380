/**
 * Makes the next authority: a key, then a certificate or a key id. Storing it as prepared, publishing and activating it
 * are left to `rotate.ts`.
 */
import { createHash } from 'node:crypto';
import type { Clock } from '../../runtime/clock.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import { hexOf } from '../../spiffe/x509/der.ts';
import { keyIdOf } from '../../spiffe/x509/public-key.ts';
import type { AuthorityKind, AuthorityRecord, KeyType, Store } from '../store/store.ts';
import type { KeyStore, StoredKey } from './keys.ts';
import { randomHex, randomKeyId } from './random.ts';
import type { Upstream } from './upstream.ts';

export interface PreparerDeps {
  readonly trustDomain: TrustDomain;
  readonly owner: string;
  readonly clock: Clock;
  readonly store: Pick<Store, 'position'>;
  readonly keys: Pick<KeyStore, 'generate'>;
  readonly upstream: Upstream;
  readonly policy: (kind: AuthorityKind) => { readonly keyType: KeyType; readonly lifeMs: number };
}

export interface Preparer {
  /** Stands in the name of every key made for this store, as it is since it was created or restored. */
  readonly mark: string;
  /** A record to store; a key whose name is not in `inUse` may be one that an earlier, failed attempt made. */
  prepare(kind: AuthorityKind, inUse: ReadonlySet<string>): Promise<AuthorityRecord>;
}

interface Spare {
  readonly key: StoredKey;
  readonly tokenKeyId: string;
}

export function createPreparer(deps: PreparerDeps): Preparer {
  const { trustDomain, owner, clock, keys, upstream } = deps;
  const mark = markOf(deps.store.position.epoch);
  // A failing store or upstream must not litter the key store with a key for every attempt.
  const spares = new Map<AuthorityKind, Spare>();

  const spareFor = async (kind: AuthorityKind, keyType: KeyType, inUse: ReadonlySet<string>): Promise<Spare> => {
    const left = spares.get(kind);
    if (left !== undefined && left.key.type === keyType && !inUse.has(left.key.name)) return left;
    const key = await keys.generate(`${kind}-${mark}-${randomHex(8)}`, keyType);
    const spare = { key, tokenKeyId: randomKeyId() };
    spares.set(kind, spare);
    return spare;
  };

  return {
    mark,
    async prepare(kind, inUse) {
      const { keyType, lifeMs } = deps.policy(kind);
      const { key, tokenKeyId } = await spareFor(kind, keyType, inUse);
      const at = clock.now();
      const common = {
        kind,
        owner,
        keyName: key.name,
        keyType,
        state: 'prepared' as const,
        publicKey: key.publicKey,
        createdAt: at,
        publishedAt: undefined,
        publishedRevision: undefined,
        activatedAt: undefined,
      };
      if (kind !== 'x509') {
        // A token's instants are whole seconds.
        const expiresAt = Math.floor((at + lifeMs) / 1000) * 1000;
        return { ...common, id: tokenKeyId, certificate: undefined, notBeforeAt: at, expiresAt };
      }
      const certificate = await upstream.certify({ trustDomain, key, at, expiresAt: at + lifeMs });
      const { notBeforeAt, notAfterAt } = parseCertificate(certificate);
      return { ...common, id: hexOf(keyIdOf(key.publicKey)), certificate, notBeforeAt, expiresAt: notAfterAt };
    },
  };
}

/** Short and legal in a file's name, whatever the epoch looks like. */
function markOf(epoch: string): string {
  return createHash('sha256').update(epoch).digest('hex').slice(0, 8);
}
