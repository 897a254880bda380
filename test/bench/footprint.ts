/**
 * Loads the registry of a filled store in a process of its own and prints what it takes in time and memory.
 * Usage: `node --expose-gc test/bench/footprint.ts FILE`.
 */
import process from 'node:process';
import { systemClock } from '../../runtime/clock.ts';
import { openRegistry } from '../../server/registry/registry.ts';
import { openSqliteStore } from '../../server/store/sqlite.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import { trustDomain } from './estate.ts';

const [file = ''] = process.argv.slice(2);

/** Of the main thread: objects and what they own outside of the heap. */
function held(): number {
  globalThis.gc?.();
  globalThis.gc?.();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

const store = await openSqliteStore({ path: file, trustDomain: parseTrustDomain(trustDomain), clock: systemClock });
const before = held();
const began = performance.now();
const registry = await openRegistry({ store, trustDomain: parseTrustDomain(trustDomain), clock: systemClock, maxEntries: 10_000_000, onDelivered: () => undefined });
const loadMs = performance.now() - began;
const entries = registry.entries.size;
const bytes = held() - before;
process.stdout.write(`${JSON.stringify({ entries, loadMs, bytesPerEntry: bytes / entries, rss: process.memoryUsage.rss() })}\n`);
registry.close();
await store.close();
