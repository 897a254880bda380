/**
 * Entries as they are shown: a table of many, a record of one, JSON that can be sent back as a file.
 */
import { entryFromMessage } from '../proto/convert/entry.ts';
import type { Entry__Output } from '../proto/gen/spire/api/types/Entry.ts';
import type { RegistrationEntry } from '../spiffe/entry.ts';
import { strengthOf } from '../spiffe/strength.ts';
import { exitCodes, type Io } from './command.ts';
import { instant, json, record, table } from './print.ts';

export function showEntries(io: Io, form: 'table' | 'json', messages: readonly Entry__Output[]): number {
  if (form === 'json') {
    io.out(json(messages.map(entryView)));
    return exitCodes.ok;
  }
  const entries = messages.map(entryFromMessage);
  const [only] = entries;
  if (entries.length === 1 && only !== undefined) {
    io.out(entryRecord(only));
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
export function entryView(message: Entry__Output): object {
  const entry = entryFromMessage(message);
  return { ...entry, expiresAt: entry.expiresAt === undefined ? null : instant(entry.expiresAt), createdAt: instant(entry.createdAt) };
}

export function entryRecord(entry: RegistrationEntry): string {
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
    ['Federates with', entry.federatesWith],
    ['DNS names', entry.dnsNames],
    ['Hint', entry.hint],
    ['Flags', flagsOn],
    ['Created', instant(entry.createdAt)],
    ['Expires', instant(entry.expiresAt)],
  ]);
}
