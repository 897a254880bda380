/**
 * Registration entries as rows and back, and the text in which a whole table of them travels between threads. Which
 * statements use them is `entries.ts`.
 */
import { createHash } from 'node:crypto';

import { composeEntry, matchKey } from '../../spiffe/entry.ts';
import type { EntryDraft, RegistrationEntry } from '../../spiffe/entry.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { EntryTable } from './schema.ts';
import type { StoredEntry } from './store.ts';

/** Equal for entries of the same SPIFFE ID, parent and set of selectors; short enough for an index. */
export function matchHash(entry: Pick<EntryDraft, 'spiffeId' | 'parentId' | 'selectors'>): string {
  return createHash('sha256').update(matchKey(entry)).digest('base64url');
}

export function entryRow(row: number, entry: RegistrationEntry): EntryTable & Record<string, string | number | null> {
  return {
    row,
    id: entry.id,
    match_hash: matchHash(entry),
    spiffe_id: entry.spiffeId,
    parent_id: entry.parentId,
    selectors: JSON.stringify(entry.selectors),
    federates_with: JSON.stringify(entry.federatesWith),
    dns_names: JSON.stringify(entry.dnsNames),
    x509_svid_ttl: entry.x509SvidTtlSeconds,
    jwt_svid_ttl: entry.jwtSvidTtlSeconds,
    admin: entry.admin ? 1 : 0,
    downstream: entry.downstream ? 1 : 0,
    store_svid: entry.storeSvid ? 1 : 0,
    hint: entry.hint,
    disable_x509_svid_prefetch: entry.disableX509SvidPrefetch ? 1 : 0,
    jwt_svid_include_jti: entry.jwtSvidIncludeJti ? 1 : 0,
    forbid_cache: entry.forbidCache ? 1 : 0,
    expires_at: entry.expiresAt ?? null,
    created_at: entry.createdAt,
    revision_number: entry.revisionNumber,
  };
}

export function readEntry(row: EntryTable): RegistrationEntry {
  return composeEntry(
    {
      spiffeId: row.spiffe_id as SpiffeId,
      parentId: row.parent_id as SpiffeId,
      selectors: JSON.parse(row.selectors) as Selector[],
      federatesWith: JSON.parse(row.federates_with) as TrustDomain[],
      dnsNames: JSON.parse(row.dns_names) as string[],
      x509SvidTtlSeconds: row.x509_svid_ttl,
      jwtSvidTtlSeconds: row.jwt_svid_ttl,
      admin: row.admin !== 0,
      downstream: row.downstream !== 0,
      storeSvid: row.store_svid !== 0,
      hint: row.hint,
      disableX509SvidPrefetch: row.disable_x509_svid_prefetch !== 0,
      jwtSvidIncludeJti: row.jwt_svid_include_jti !== 0,
      forbidCache: row.forbid_cache !== 0,
      expiresAt: row.expires_at ?? undefined,
    },
    { id: row.id, createdAt: row.created_at, revisionNumber: row.revision_number },
  );
}

const adminFlag = 1;
const downstreamFlag = 2;
const storeSvidFlag = 4;
const prefetchFlag = 8;
const jtiFlag = 16;
const cacheFlag = 32;

type PackedEntry = readonly [
  row: number,
  id: string,
  spiffeId: string,
  parentId: string,
  selectors: string[],
  federatesWith: string[],
  dnsNames: string[],
  x509SvidTtl: number,
  jwtSvidTtl: number,
  flags: number,
  hint: string,
  expiresAt: number | null,
  createdAt: number,
  revisionNumber: number,
];

const none: readonly never[] = Object.freeze([]);

/** What `packEntries` takes, in this order. */
export const packedColumns = [
  'row',
  'id',
  'spiffe_id',
  'parent_id',
  'selectors',
  'federates_with',
  'dns_names',
  'x509_svid_ttl',
  'jwt_svid_ttl',
  'hint',
  'expires_at',
  'created_at',
  'revision_number',
  'admin',
  'downstream',
  'store_svid',
  'disable_x509_svid_prefetch',
  'jwt_svid_include_jti',
  'forbid_cache',
] as const satisfies readonly (keyof EntryTable)[];

type ColumnsOf<Names extends readonly (keyof EntryTable)[]> = { readonly [Index in keyof Names]: EntryTable[Names[Index]] };
export type EntryColumns = ColumnsOf<typeof packedColumns>;

/** JSON text costs a third of what cloning objects between threads does. */
export function packEntries(rows: readonly EntryColumns[]): string {
  return `[${rows.map(packEntry).join(',')}]`;
}

/** @param shared yields the same string for equal texts, as parents and selectors repeat a million times */
export function unpackEntries(text: string, shared: (text: string) => string): readonly StoredEntry[] {
  const list = <T>(texts: string[]): readonly T[] =>
    texts.length === 0 ? none : Object.freeze(texts.map((member) => shared(member) as T));
  return (JSON.parse(text) as PackedEntry[]).map((packed) => ({
    row: packed[0],
    entry: Object.freeze({
      id: packed[1],
      spiffeId: packed[2] as SpiffeId,
      parentId: shared(packed[3]) as SpiffeId,
      selectors: list<Selector>(packed[4]),
      federatesWith: list<TrustDomain>(packed[5]),
      dnsNames: list<string>(packed[6]),
      x509SvidTtlSeconds: packed[7],
      jwtSvidTtlSeconds: packed[8],
      admin: (packed[9] & adminFlag) !== 0,
      downstream: (packed[9] & downstreamFlag) !== 0,
      storeSvid: (packed[9] & storeSvidFlag) !== 0,
      hint: shared(packed[10]),
      disableX509SvidPrefetch: (packed[9] & prefetchFlag) !== 0,
      jwtSvidIncludeJti: (packed[9] & jtiFlag) !== 0,
      forbidCache: (packed[9] & cacheFlag) !== 0,
      expiresAt: packed[11] ?? undefined,
      createdAt: packed[12],
      revisionNumber: packed[13],
    }),
  }));
}

/** Remembers up to so many texts, then starts over: those that do not repeat would fill memory. */
export function createSharer(limit = 65_536): (text: string) => string {
  const known = new Map<string, string>();
  return (text) => {
    const found = known.get(text);
    if (found !== undefined) return found;
    if (known.size >= limit) known.clear();
    known.set(text, text);
    return text;
  };
}

/** The lists are JSON already and go in as they are. */
function packEntry(columns: EntryColumns): string {
  const [row, id, spiffeId, parentId, selectors, federatesWith, dnsNames, x509Ttl, jwtTtl, hint, expiresAt, createdAt, revision] = columns;
  const flags =
    columns[13] * adminFlag +
    columns[14] * downstreamFlag +
    columns[15] * storeSvidFlag +
    columns[16] * prefetchFlag +
    columns[17] * jtiFlag +
    columns[18] * cacheFlag;
  const names = `${JSON.stringify(id)},${JSON.stringify(spiffeId)},${JSON.stringify(parentId)}`;
  const lists = `${selectors},${federatesWith},${dnsNames}`;
  return `[${row},${names},${lists},${x509Ttl},${jwtTtl},${flags},${JSON.stringify(hint)},${expiresAt ?? 'null'},${createdAt},${revision}]`;
}
