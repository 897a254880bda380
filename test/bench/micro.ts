/**
 * The parts on their own, each in this process of its own, measured in processor time of the thread where that says more
 * than the clock. Usage: `node test/bench/micro.ts NAME [DIRECTORY]`; prints one JSON line a figure.
 */
import { generateKeyPairSync } from 'node:crypto';
import path from 'node:path';
import process from 'node:process';
import { createEntryIndex } from '../../agent/sync/entry-index.ts';
import { systemClock } from '../../runtime/clock.ts';
import { readyX509 } from '../../server/authority/drafts.ts';
import { createMemoryKeyStore } from '../../server/authority/keys-memory.ts';
import { openRotation } from '../../server/authority/rotate.ts';
import { signX509 } from '../../server/authority/sign.ts';
import { createSelfUpstream } from '../../server/authority/upstream-self.ts';
import { openRegistry } from '../../server/registry/registry.ts';
import { openSqliteStore } from '../../server/store/sqlite.ts';
import type { CredentialIntent, Scope, Store } from '../../server/store/store.ts';
import { matchingEntries } from '../../spiffe/authorize.ts';
import { composeBundle } from '../../spiffe/bundle.ts';
import { composeEntry } from '../../spiffe/entry.ts';
import { composeSpiffeId, parseTrustDomain } from '../../spiffe/id.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { checkProofOfPossession, composeRequest, parseRequest } from '../../spiffe/x509/request.ts';
import { agentPath, entriesOf, trustDomain } from './estate.ts';
import { distributionOf, rounded, type Figure } from './figure.ts';

const domain = parseTrustDomain(trustDomain);
const agent = composeSpiffeId(domain, agentPath(0));

function report(figure: Figure): void {
  process.stdout.write(`${JSON.stringify(figure)}\n`);
}

/** Processor time of this thread, microseconds. */
function threadTime(): number {
  const { user, system } = process.threadCpuUsage();
  return user + system;
}

/** Of `rounds` rounds after a tenth as many to warm up; `each` is how many things one round does. */
async function spent(rounds: number, each: number, round: () => unknown): Promise<ReturnType<typeof distributionOf>> {
  const times: number[] = [];
  for (let done = -rounds / 10; done < rounds; done += 1) {
    const began = threadTime();
    await round();
    if (done >= 0) times.push((threadTime() - began) / each);
  }
  return distributionOf(times);
}

const scope = (): Scope => ({ actor: 'operator:0/1', call: 'bench', at: systemClock.now() });
const openStore = (file: string): Promise<Store> => openSqliteStore({ path: file, trustDomain: domain, clock: systemClock });

async function signing(): Promise<void> {
  await using cleanup = new AsyncDisposableStack();
  const store = await openStore(':memory:');
  cleanup.defer(() => store.close());
  const keys = createMemoryKeyStore();
  const hour = 3_600_000;
  const rotation = await openRotation({
    trustDomain: domain,
    owner: 'bench',
    clock: systemClock,
    store,
    keys,
    upstream: createSelfUpstream(keys),
    delivery: { unconfirmed: () => [], pollers: false },
    policy: () => ({ keyType: 'ec-p256', lifeMs: 24 * hour, slots: { absenceMs: hour, pollMs: 15_000, graceMs: 60_000 } }),
    onProblem: () => undefined,
  });
  const authority = rotation.active.x509.value;
  const publicKey = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ type: 'spki', format: 'der' });
  const grant = {
    profile: 'workload' as const,
    spiffeId: composeSpiffeId(domain, '/cluster/production/ns/team-1/sa/service-1'),
    entryId: 'e',
    agentId: agent,
    decisionId: 'd',
    reason: 'held-by-agent',
    process: '',
    ttlSeconds: 3600,
    publicKey,
    dnsNames: [],
  };
  const draft = () => readyX509(authority, grant, systemClock.now());
  const batch = 64;
  const drafting = await spent(200, batch, () => {
    for (let n = 0; n < batch; n += 1) draft();
  });
  report({ figure: 'X509-SVID drafted and checked, main thread', unit: 'us', distribution: drafting });
  const deps = { keys, store: { recordIntents: async () => undefined, recordResults: () => undefined } };
  const both = await spent(200, batch, () => Promise.all(Array.from({ length: batch }, () => signX509(deps, draft(), ''))));
  report({ figure: 'X509-SVID drafted, checked and signed, main thread', unit: 'us', distribution: both });
}

async function proving(): Promise<void> {
  const requests = Array.from({ length: 50 }, () => composeRequest({ privateKey: generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey }));
  const each = await spent(40, requests.length, () => {
    for (const request of requests) checkProofOfPossession(parseRequest(request));
  });
  report({ figure: 'certificate request read and its proof checked', unit: 'us', distribution: each });
}

async function matching(): Promise<void> {
  const others = ['unix:gid:7', 'unix:user:app', 'unix:group:app'].map(parseSelector);
  for (const size of [1_000, 10_000]) {
    const index = createEntryIndex();
    const drafts = entriesOf(0, size);
    for (const [n, draft] of drafts.entries()) index.add(composeEntry(draft, { id: `e${n}`, createdAt: 0, revisionNumber: 0 }));
    const asked = drafts.filter((_, n) => n % 10 === 0).map(({ selectors }) => new Set([...selectors, ...others]));
    let found = 0;
    const turns = 100_000 / size;
    const each = await spent(50, asked.length * turns, () => {
      for (let turn = 0; turn < turns; turn += 1) for (const selectors of asked) found += matchingEntries(selectors, index.candidates(selectors)).length;
    });
    if (found === 0) throw new Error('nothing matched');
    report({ figure: `workload matched among ${size} entries`, unit: 'us', distribution: each });
  }
}

async function fanOut(): Promise<void> {
  const followers = 1_000;
  const store = await openStore(':memory:');
  const registry = await openRegistry({ store, trustDomain: domain, clock: systemClock, maxEntries: 100_000, onDelivered: () => undefined });
  const at = systemClock.now();
  const over = new AbortController();
  let told = 0;
  const expiresAt = at + 3_600_000;
  for (let n = 0; n < followers; n += 1) {
    const id = composeSpiffeId(domain, agentPath(n));
    const record = { id, attestationType: 'x509pop', serial: String(n + 1), expiresAt, pendingSerial: '', pendingExpiresAt: 0, selectors: [], canReattest: true, agentVersion: '', attestedAt: at };
    await store.admitAgent({ agent: record, tokenHash: undefined, intent: intentOf(n) }, scope());
    void (async () => {
      for await (const item of registry.feed.follow(id, undefined, 2, over.signal)) if (item.what === 'changes' && item.changes.length > 0) told += 1;
    })().catch(() => undefined);
  }
  await quiet();
  const one = await spent(100, 1, async () => {
    told = 0;
    const [draft] = entriesOf(round++, 1);
    if (draft !== undefined) await store.createEntries([draft], scope());
    await quiet();
    if (told !== 1) throw new Error(`${told} were told of one entry`);
  });
  report({ figure: 'entry of one agent handed to its stream among 1000, main thread', unit: 'us', distribution: one });
  const everybody = await spent(50, 1, async () => {
    told = 0;
    await store.writeBundle(composeBundle({ trustDomain: domain, x509Authorities: [], jwtAuthorities: [], refreshHintSeconds: ++round, sequence: 0n }), 'set', scope());
    await quiet();
    if (told !== followers) throw new Error(`${told} were told of the bundle`);
  });
  report({ figure: 'bundle handed to 1000 streams, main thread', unit: 'us', distribution: everybody });
  over.abort();
  registry.close();
  await store.close();
}

let round = 0;

/** Until what is under way in this process has been done. */
function quiet(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 20));
}

function intentOf(n: number): CredentialIntent {
  const at = systemClock.now();
  return {
    id: `${n.toString(16).padStart(8, '0')}${Math.random().toString(16).slice(2).padStart(24, '0').slice(0, 24)}`,
    kind: 'x509',
    spiffeId: composeSpiffeId(domain, '/cluster/production/ns/team-1/sa/service-1'),
    entryId: '0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b',
    agentId: agent,
    authorityId: '00'.repeat(20),
    decisionId: `decision-${n}`,
    reason: 'held-by-agent',
    at,
    notBeforeAt: at - 10_000,
    expiresAt: at + 3_600_000,
    audience: [],
    digest: '00'.repeat(32),
    process: '',
  };
}

/** As issuing does it: chunks of intents, several on the way, the results of each riding with later ones. */
async function recording(directory: string): Promise<void> {
  const store = await openStore(path.join(directory, 'intents', 'steeple.sqlite'));
  const chunk = 64;
  const onTheWay = 8;
  const total = 100_000;
  const before = process.cpuUsage();
  const mine = threadTime();
  const began = performance.now();
  let next = 0;
  const commits: number[] = [];
  await Promise.all(
    Array.from({ length: onTheWay }, async () => {
      while (next < total) {
        const intents = Array.from({ length: chunk }, () => intentOf(next++ * 2_654_435_761 % 4_294_967_296));
        const started = performance.now();
        await store.recordIntents(intents);
        commits.push(performance.now() - started);
        store.recordResults(intents.map(({ id }) => ({ id, outcome: 'issued' })));
      }
    }),
  );
  const seconds = (performance.now() - began) / 1000;
  const used = process.cpuUsage(before);
  const main = threadTime() - mine;
  report({
    figure: 'intents recorded, with results',
    unit: 'per second',
    value: rounded(total / seconds),
    also: {
      chunk,
      onTheWay,
      chunkMs: distributionOf(commits),
      usEachOnMainThread: rounded(main / total),
      usEachOnOthers: rounded((used.user + used.system - main) / total),
    },
  });
  await store.close();
}

const [name = '', directory = ''] = process.argv.slice(2);
const parts: Readonly<Record<string, () => Promise<void>>> = { signing, proving, matching, 'fan-out': fanOut, recording: () => recording(directory) };
const part = parts[name];
if (part === undefined) throw new Error(`no part ${name}; there are ${Object.keys(parts).join(', ')}`);
await part();
process.exit(0);
