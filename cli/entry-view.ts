/**
 * Entries as they are shown: a table of many, a record of one, JSON that can be sent back as a file.
 */
import { entryFromMessage } from '../proto/convert/entry.ts';
import type { Entry__Output } from '../proto/gen/spire/api/types/Entry.ts';
import type { RegistrationEntry } from '../spiffe/entry.ts';
import { strengthOf } from '../spiffe/strength.ts';
import { exitCodes, type Io } from './command.ts';
import { instant, json, record, table } from './print.ts';

/** @param waiting trust domains whose bundle the server does not have yet */
export function showEntries(io: Io, form: 'table' | 'json', messages: readonly Entry__Output[], waiting: ReadonlySet<string>): number {
  if (form === 'json') {
    io.out(json(messages.map((message) => entryView(message, waiting))));
    return exitCodes.ok;
  }
  const entries = messages.map(entryFromMessage);
  const [only] = entries;
  if (entries.length === 1 && only !== undefined) {
    io.out(entryRecord(only, waiting));
    return exitCodes.ok;
  }
  io.out(
    table(
      ['ID', 'SPIFFE ID', 'PARENT', 'SELECTORS'],
      entries.map((entry) => [entry.id, entry.spiffeId, entry.parentId, entry.selectors.join(' ')]),
    ),
  );
  io.err(`${entries.length} entries\n`);
  return exitCodes.ok;
}

/** For programs: the words of an entry file, so that what is shown can be sent back. */
export function entryView(message: Entry__Output, waiting: ReadonlySet<string>): object {
  const entry = entryFromMessage(message);
  const pendingBundles = entry.federatesWith.filter((name) => waiting.has(name));
  return {
    ...entry,
    ...(pendingBundles.length > 0 && { pendingBundles }),
    expiresAt: entry.expiresAt === undefined ? null : instant(entry.expiresAt),
    createdAt: instant(entry.createdAt),
  };
}

export function entryRecord(entry: RegistrationEntry, waiting: ReadonlySet<string>): string {
  const flagsOn = [
    entry.admin && 'admin',
    entry.downstream && 'downstream',
    entry.storeSvid && 'store-svid',
    entry.disableX509SvidPrefetch && 'disable-x509-svid-prefetch',
    entry.jwtSvidIncludeJti && 'jwt-svid-include-jti',
    entry.forbidCache && 'forbid-cache',
  ].filter((flag) => flag !== false);
  const strength = strengthOf(entry.selectors);
  const ttl = (seconds: number): string => (seconds === 0 ? 'default' : `${seconds}s`);
  return record([
    ['Entry ID', entry.id],
    ['SPIFFE ID', entry.spiffeId],
    ['Parent ID', entry.parentId],
    ['Revision', String(entry.revisionNumber)],
    ['X509-SVID TTL', ttl(entry.x509SvidTtlSeconds)],
    ['JWT-SVID TTL', ttl(entry.jwtSvidTtlSeconds)],
    ['Selectors', entry.selectors],
    ['Strength', `${strength.level} of 5: ${strength.why}`],
    ['Federates with', entry.federatesWith.map((name) => (waiting.has(name) ? `${name} (pending: its bundle is still to come)` : name))],
    ['DNS names', entry.dnsNames],
    ['Hint', entry.hint],
    ['Flags', flagsOn],
    ['Created', instant(entry.createdAt)],
    ['Expires', instant(entry.expiresAt)],
  ]);
}
