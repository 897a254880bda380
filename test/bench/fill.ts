/**
 * Fills a store with entries, as a process of its own: a thousand entries under each of as many agents as that takes, two
 * selectors each. Usage: `node test/bench/fill.ts FILE COUNT`.
 */
import process from 'node:process';
import { systemClock } from '../../runtime/clock.ts';
import { openSqliteStore } from '../../server/store/sqlite.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import { entriesOf, trustDomain } from './estate.ts';

const [file = '', count = '0'] = process.argv.slice(2);
const batch = 1_000;

const store = await openSqliteStore({ path: file, trustDomain: parseTrustDomain(trustDomain), clock: systemClock });
const began = performance.now();
const writing: Promise<unknown>[] = [];
for (let from = 0; from < Number(count); from += batch) {
  const drafts = entriesOf(from, Math.min(batch, Number(count) - from));
  writing.push(store.createEntries(drafts, { actor: 'operator:0/1', call: 'bench', at: systemClock.now() }));
  // A few on the way keep the writer busy, all of them would fill the memory.
  if (writing.length > 4) await writing.shift();
}
await Promise.all(writing);
const seconds = (performance.now() - began) / 1000;
await store.close();
process.stdout.write(`${JSON.stringify({ entries: Number(count), seconds, perSecond: Number(count) / seconds })}\n`);
