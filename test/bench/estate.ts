/**
 * The estate that benches run in: entries made from their number alone, so that every process that needs one of them
 * makes the same. Who holds them is decided by their parents.
 */
import { checkEntryDraft, type EntryDraft } from '../../spiffe/entry.ts';
import { parseSpiffeId, parseTrustDomain } from '../../spiffe/id.ts';
import { parseSelector } from '../../spiffe/selector.ts';

export const trustDomain = 'example.org';
const parsedDomain = parseTrustDomain(trustDomain);

/** Entries under one agent. */
export const perAgent = 1_000;

export function agentPath(index: number): string {
  return `/spire/agent/x509pop/${index.toString(16).padStart(40, '0')}`;
}

/** The entries from a number on; as services are registered: a path in a cluster, an image and a user. */
export function entriesOf(from: number, count: number): readonly EntryDraft[] {
  return Array.from({ length: count }, (_, offset) => entryOf(from + offset));
}

function entryOf(index: number): EntryDraft {
  return checkEntryDraft(
    {
      spiffeId: parseSpiffeId(`spiffe://${trustDomain}/cluster/production/ns/team-${index % 977}/sa/service-${index}`),
      parentId: parseSpiffeId(`spiffe://${trustDomain}${agentPath(Math.floor(index / perAgent))}`),
      selectors: [parseSelector(`unix:path:/opt/services/team-${index % 977}/service-${index}/bin/serve`), parseSelector(`unix:uid:${1000 + (index % 5000)}`)],
      x509SvidTtlSeconds: 0,
      jwtSvidTtlSeconds: 0,
      federatesWith: [],
      dnsNames: [],
      admin: false,
      downstream: false,
      storeSvid: false,
      hint: '',
      disableX509SvidPrefetch: false,
      jwtSvidIncludeJti: false,
      forbidCache: false,
      expiresAt: undefined,
    },
    parsedDomain,
  );
}
