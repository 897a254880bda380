/**
 * A process that writes to a store as fast as it can and says what it was told is durable, so that another can kill it
 * at any moment and compare.
 */
import { stdout } from 'node:process';

import { openSqliteStore } from '../../server/store/sqlite.ts';
import { systemClock } from '../../runtime/clock.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import type { EntryDraft } from '../../spiffe/entry.ts';

const [, , path = '', round = ''] = process.argv;
const store = await openSqliteStore({ path, trustDomain: parseTrustDomain('example.org'), clock: systemClock });
const scope = { actor: 'server', call: '', at: systemClock.now() };

function draft(name: string): EntryDraft {
  return {
    id: name,
    spiffeId: `spiffe://example.org/${name}`,
    parentId: 'spiffe://example.org/spire/agent/test/a',
    selectors: ['unix:uid:1'],
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
  } as unknown as EntryDraft;
}

async function write(lane: number): Promise<never> {
  for (let turn = 0; ; turn += 1) {
    const pair = [`r${round}-l${lane}-t${turn}-0`, `r${round}-l${lane}-t${turn}-1`];
    await store.createEntries(pair.map(draft), scope);
    stdout.write(`${pair.join('\n')}\n`);
  }
}

await Promise.all(Array.from({ length: 8 }, (_, lane) => write(lane)));
