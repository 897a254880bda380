/**
 * The SQL of bundles, the own one and those of federated trust domains. What a step from one bundle to the next is,
 * `spiffe/bundle.ts` says.
 */
import {
  appendAuthorities,
  bundleEquals,
  bundleContentEquals,
  composeBundle,
  emptyBundle,
  pruneBundle as pruneExpired,
} from '../../spiffe/bundle.ts';
import type { Authorities, Bundle, JwtAuthority, X509Authority } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { AuditDetail } from '../audit/event.ts';
import { eventOf, recordEvents } from './audit.ts';
import { recordChanges } from './changes.ts';
import { countFederated, endFederation } from './entries.ts';
import type { Session, Transaction } from './session.ts';
import type { BundleDelete, BundleWrite, Scope } from './store.ts';
import type { BundleTable } from './schema.ts';

export async function loadBundles(session: Session): Promise<readonly Bundle[]> {
  return (await session.all(session.db.selectFrom('bundle').selectAll().orderBy('trust_domain'))).map(readBundle);
}

export async function appendBundle(
  transaction: Transaction,
  trustDomain: TrustDomain,
  x509: readonly X509Authority[],
  jwt: readonly JwtAuthority[],
  scope: Scope,
): Promise<Bundle> {
  const { bundle, changed } = await appendToBundle(transaction, trustDomain, { x509Authorities: x509, jwtAuthorities: jwt });
  if (changed) {
    const detail = { ...bundleDetail(bundle), givenX509: x509.length, givenJwt: jwt.length };
    await recordEvents(transaction.session, [eventOf(scope, 'bundle.appended', trustDomain, detail)]);
  }
  return bundle;
}

/** Without an event; `revision` is that of the change, or of nothing when nothing changed. */
export async function appendToBundle(
  transaction: Transaction,
  trustDomain: TrustDomain,
  added: Authorities,
): Promise<{ readonly bundle: Bundle; readonly changed: boolean; readonly revision: number | undefined }> {
  const known = await findBundle(transaction.session, trustDomain);
  if (known === undefined) {
    // A bundle that is new counts from 0, whatever it starts with.
    const { bundle } = appendAuthorities(emptyBundle(trustDomain), added);
    const first = composeBundle({ ...bundle, sequence: 0n });
    return { bundle: first, changed: true, revision: await putBundle(transaction, first) };
  }
  const { bundle, changed } = appendAuthorities(known, added);
  return { bundle, changed, revision: changed ? await putBundle(transaction, bundle) : undefined };
}

/**
 * Update keeps counting where the stored bundle is; create and set take the sequence given.
 * @throws exists `bundle.exists` (create), missing `bundle.missing` (update)
 */
export async function writeBundle(transaction: Transaction, bundle: Bundle, how: BundleWrite, scope: Scope): Promise<Bundle> {
  const known = await findBundle(transaction.session, bundle.trustDomain);
  if (how === 'create' && known !== undefined) throw new SpiffeError('exists', 'bundle.exists', 'bundle already exists');
  if (how === 'update' && known === undefined) throw missingBundle();
  if (known !== undefined && (how === 'update' ? bundleContentEquals : bundleEquals)(known, bundle)) return known;
  const sequence = how === 'update' && known !== undefined ? known.sequence + 1n : bundle.sequence;
  const next = composeBundle({ ...bundle, sequence });
  await putBundle(transaction, next);
  // What is fetched later is compared with what the publisher said, not with what was changed here.
  if (how !== 'update') await restartSequence(transaction.session, next);
  await recordEvents(transaction.session, [eventOf(scope, 'bundle.set', bundle.trustDomain, bundleDetail(next), how)]);
  return next;
}

async function restartSequence(session: Session, { trustDomain, sequence }: Bundle): Promise<void> {
  await session.run(
    session.db.updateTable('relationship').set({ sequence: sequence.toString() }).where('trust_domain', '=', trustDomain),
  );
}

/** @throws missing `bundle.missing`, conflict `bundle.in-use` (restrict) */
export async function deleteBundle(
  transaction: Transaction,
  trustDomain: TrustDomain,
  how: BundleDelete,
  scope: Scope,
): Promise<void> {
  const { session } = transaction;
  const stored = await findBundle(session, trustDomain);
  const users = await countFederated(session, trustDomain);
  // Entries may wait for one that never came, and be freed of it the same way.
  if (stored === undefined && (users === 0 || how === 'restrict')) throw missingBundle();
  if (how === 'restrict' && users > 0) {
    throw new SpiffeError('conflict', 'bundle.in-use', `cannot delete bundle; federated with ${users} registration entries`, {
      detail: { entries: users },
    });
  }
  if (how !== 'restrict') await endFederation(transaction, trustDomain, how, scope);
  if (stored !== undefined) {
    await session.run(session.db.deleteFrom('bundle').where('trust_domain', '=', trustDomain));
    await recordChanges(transaction, [{ noun: 'bundle', id: trustDomain, bundle: undefined, structural: true }]);
  }
  await recordEvents(session, [eventOf(scope, 'bundle.deleted', trustDomain, { entries: users }, how)]);
}

export async function pruneBundle(
  transaction: Transaction,
  trustDomain: TrustDomain,
  expiredBefore: number,
  scope: Scope,
): Promise<number> {
  const known = await findBundle(transaction.session, trustDomain);
  if (known === undefined) return 0;
  const { bundle, changed } = pruneExpired(known, expiredBefore);
  if (!changed) return 0;
  await putBundle(transaction, bundle);
  const dropped = countAuthorities(known) - countAuthorities(bundle);
  const detail = { ...bundleDetail(bundle), dropped };
  await recordEvents(transaction.session, [eventOf(scope, 'bundle.pruned', trustDomain, detail)]);
  return dropped;
}

export async function findBundle(session: Session, trustDomain: TrustDomain): Promise<Bundle | undefined> {
  const row = await session.first(session.db.selectFrom('bundle').selectAll().where('trust_domain', '=', trustDomain));
  return row === undefined ? undefined : readBundle(row);
}

/** Without an event; tells the revision of the change. */
export async function putBundle(transaction: Transaction, bundle: Bundle): Promise<number> {
  const { session } = transaction;
  const { trust_domain, ...fields } = bundleRow(bundle);
  await session.run(
    session.db
      .insertInto('bundle')
      .values({ trust_domain, ...fields })
      .onConflict((conflict) => conflict.column('trust_domain').doUpdateSet(fields)),
  );
  return recordChanges(transaction, [{ noun: 'bundle', id: bundle.trustDomain, bundle, structural: false }]);
}

function missingBundle(): SpiffeError {
  return new SpiffeError('missing', 'bundle.missing', 'bundle not found');
}

function countAuthorities(bundle: Bundle): number {
  return bundle.x509Authorities.length + bundle.jwtAuthorities.length + bundle.witAuthorities.length;
}

export function bundleDetail(bundle: Bundle): AuditDetail {
  return {
    x509Authorities: bundle.x509Authorities.length,
    jwtAuthorities: bundle.jwtAuthorities.map((authority) => authority.keyId),
    ...(bundle.witAuthorities.length > 0 && { witAuthorities: bundle.witAuthorities.map((authority) => authority.keyId) }),
    sequence: bundle.sequence.toString(),
  };
}

interface StoredX509Authority {
  readonly certificate: string;
  readonly tainted: boolean;
}

interface StoredJwtAuthority {
  readonly keyId: string;
  readonly publicKey: string;
  readonly expiresAt: number | null;
  readonly tainted: boolean;
}

function bundleRow(bundle: Bundle): BundleTable {
  const x509 = bundle.x509Authorities.map(
    ({ certificate, tainted }): StoredX509Authority => ({ certificate: Buffer.from(certificate).toString('base64'), tainted }),
  );
  return {
    trust_domain: bundle.trustDomain,
    sequence: bundle.sequence.toString(),
    refresh_hint: bundle.refreshHintSeconds,
    x509_authorities: JSON.stringify(x509),
    jwt_authorities: JSON.stringify(bundle.jwtAuthorities.map(storedKey)),
    wit_authorities: JSON.stringify(bundle.witAuthorities.map(storedKey)),
  };
}

function storedKey({ keyId, publicKey, expiresAt, tainted }: JwtAuthority): StoredJwtAuthority {
  return { keyId, publicKey: Buffer.from(publicKey).toString('base64'), expiresAt: expiresAt ?? null, tainted };
}

function readBundle(row: BundleTable): Bundle {
  return composeBundle({
    trustDomain: row.trust_domain as TrustDomain,
    sequence: BigInt(row.sequence),
    refreshHintSeconds: row.refresh_hint,
    x509Authorities: (JSON.parse(row.x509_authorities) as StoredX509Authority[]).map(({ certificate, tainted }) => ({
      certificate: bytesOf(certificate),
      tainted,
    })),
    jwtAuthorities: readKeys(row.jwt_authorities),
    witAuthorities: readKeys(row.wit_authorities),
  });
}

function readKeys(text: string): readonly JwtAuthority[] {
  return (JSON.parse(text) as StoredJwtAuthority[]).map(({ keyId, publicKey, expiresAt, tainted }) => ({
    keyId,
    publicKey: bytesOf(publicKey),
    expiresAt: expiresAt ?? undefined,
    tainted,
  }));
}

/** On memory of its own: small buffers share a pool, which would travel to the other thread as a whole. */
function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(Buffer.from(base64, 'base64'));
}
