import { X509Certificate, createPrivateKey } from 'node:crypto';
import { chmod, mkdtemp, readdir, readFile, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { parseAgentConfig } from '../../../agent/config.ts';
import type { DeliveryConfig } from '../../../agent/delivery/config.ts';
import { deliveryTask, type DeliveryEvent, withdrawDelivery } from '../../../agent/delivery/deliver.ts';
import { createSvidCache, type SvidCache } from '../../../agent/svids/cache.ts';
import { createDeliveries, type Deliveries } from '../../../agent/svids/delivery.ts';
import type { HeldJwtSvid } from '../../../agent/svids/held.ts';
import { generateKeys, receiveX509 } from '../../../agent/svids/receive.ts';
import type { TokenRequest } from '../../../agent/svids/tokens.ts';
import { holdingsOf, noHoldings, type Holdings } from '../../../agent/sync/holdings.ts';
import { composeBundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { hourMs, testAuthority, testEntry, trustDomain, type TestAuthority } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { ecPair } from '../../help/forge.ts';

const web = testEntry('/web', ['delivery:web']);

let base: string;
let place: string;
let clock: TestClock;
let authority: TestAuthority;
let cache: SvidCache;
let holdings: Holdings;
let deliveries: Deliveries;
let known: boolean;
let tainted: boolean;
let events: DeliveryEvent[];
let witnessed: string[];
let tokenFailure: SpiffeError | undefined;
let tokensAsked: number;
let stop: AbortController;
let over: Promise<unknown> | undefined;

beforeEach(async () => {
  base = await realpath(await mkdtemp(path.join(tmpdir(), 'steeple-delivery-')));
  place = path.join(base, 'web');
  clock = createTestClock();
  authority = testAuthority('authority', () => clock.now());
  cache = createSvidCache({ trustDomain, now: () => clock.now(), prefetchLimit: 9, onWanted: () => undefined, onChange: () => undefined });
  holdings = noHoldings;
  deliveries = createDeliveries();
  known = true;
  tainted = false;
  events = [];
  witnessed = [];
  tokenFailure = undefined;
  tokensAsked = 0;
  stop = new AbortController();
  over = undefined;
});
afterEach(async () => {
  stop.abort(new Error('the test is over'));
  await over;
  await rm(base, { recursive: true, force: true });
});

function hold(...entries: readonly RegistrationEntry[]): void {
  const bundle = composeBundle({
    trustDomain,
    x509Authorities: [{ certificate: authority.certificate, tainted: false }],
    jwtAuthorities: [{ keyId: 'k', publicKey: ecPair().spki, expiresAt: clock.now() + 9 * hourMs, tainted }],
    refreshHintSeconds: 0,
    sequence: 1n,
  });
  holdings = holdingsOf({ position: undefined, entries, bundles: [bundle], authorities: [] }, holdings);
  cache.holdingsChanged(holdings);
}

/** @returns the serial number */
async function sign(entry: RegistrationEntry): Promise<string> {
  const keys = await generateKeys();
  const svid = receiveX509(entry, [authority.leaf(entry.spiffeId, keys.publicKey)], keys, { at: clock.now(), jitter: 0.5 });
  cache.put(svid);
  return svid.serial;
}

async function fetchToken({ entry, audience }: TokenRequest): Promise<HeldJwtSvid> {
  tokensAsked += 1;
  if (tokenFailure !== undefined) throw tokenFailure;
  const at = clock.now();
  return {
    entryId: entry.id,
    entryRevision: entry.revisionNumber,
    spiffeId: entry.spiffeId,
    audience,
    token: `${audience.join('+')}.${String(tokensAsked)}`,
    keyId: 'k',
    issuedAt: at,
    expiresAt: at + 300_000,
    renewAt: at + 150_000,
  };
}

function configured(more: string): DeliveryConfig {
  const { deliveries: [config] } = parseAgentConfig(`
trust_domain: example.org
deliveries:
  - name: web
    directory: ${place}
${more.split('\n').map((line) => `    ${line}`).join('\n')}`);
  if (config === undefined) throw new Error('no delivery');
  return config;
}

function start(more = ''): void {
  const config = configured(more);
  const task = deliveryTask(config, {
    clock,
    random: () => 0.5,
    cache,
    freshness: { catchUp: () => Promise.resolve() },
    deliveries,
    trustDomain,
    tokens: { fetch: fetchToken },
    witness: {
      attested: ({ process: whose }, { selectors }) => witnessed.push(`attested ${String(whose?.pid === process.pid)} ${[...selectors].join()}`),
      matched: (_whom, { update }) => witnessed.push(`matched ${update.entries.map(({ spiffeId }) => spiffeId).join()}`),
      delivered: (_whom, svid, before) => witnessed.push(`${before === undefined ? 'delivered' : 'rotated'} ${svid.serial}`),
      updated: () => undefined,
    },
    isKnown: () => known,
    onEvent: (_name, event) => events.push(event),
  });
  over = task(stop.signal).catch((error: unknown) => error);
}

const seen = (what: DeliveryEvent['what']): number => events.filter((event) => event.what === what).length;
const until = (holds: () => void | Promise<void>): Promise<void> => vi.waitFor(holds, { timeout: 5_000, interval: 5 });
const read = (name: string): Promise<string> => readFile(path.join(place, name), 'utf8');
const serial = async (): Promise<string> => new X509Certificate(await read('svid.pem')).serialNumber.toLowerCase();
const same = (a: string, b: string): boolean => BigInt(`0x${a}`) === BigInt(`0x${b}`);

async function hook(): Promise<{ readonly line: string; readonly told: () => Promise<string> }> {
  const file = path.join(base, 'hook');
  const log = path.join(base, 'told');
  await writeFile(file, `#!/bin/sh\n[ -e ${base}/refuse ] && exit 1\necho "$STEEPLE_DELIVERY $STEEPLE_CHANGE $1" >> ${log}\n`);
  await chmod(file, 0o755);
  return { line: `hook: { command: [${file}, reload] }`, told: () => readFile(log, 'utf8').catch(() => '') };
}

describe('a delivery', () => {
  it('writes what the entry grants and has it on record', async () => {
    hold(web);
    const first = await sign(web);
    start();
    await until(() => expect(seen('delivered')).toBe(1));
    const certificate = new X509Certificate(await read('svid.pem'));
    expect(certificate.subjectAltName).toBe(`URI:${web.spiffeId}`);
    expect(certificate.checkPrivateKey(createPrivateKey(await read('key.pem')))).toBe(true);
    expect(new X509Certificate(await read('bundle.pem')).raw).toEqual(Buffer.from(authority.certificate));
    expect((await stat(path.join(place, 'key.pem'))).mode & 0o7777).toBe(0o600);
    const second = await sign(web);
    await until(() => expect(seen('delivered')).toBe(2));
    expect(same(await serial(), second)).toBe(true);
    expect(witnessed).toEqual(['attested true delivery:web', `matched ${web.spiffeId}`, `delivered ${first}`, `rotated ${second}`]);
  });

  it('is of its own name alone', async () => {
    const entries = [testEntry('/a', ['delivery:web2']), testEntry('/b', ['delivery:web', 'unix:uid:0']), testEntry('/c', ['unix:uid:0'])];
    hold(...entries);
    for (const entry of entries) await sign(entry);
    start();
    await until(() => expect(seen('waiting')).toBe(1));
    await clock.advance(120_000);
    expect(events).toEqual([{ what: 'waiting' }]);
    await expect(readdir(place)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('waits for its entry and for a first SVID, and says so once', async () => {
    start();
    await until(() => expect(seen('waiting')).toBe(1));
    hold(web);
    await until(() => expect(seen('unsigned')).toBe(1));
    await sign(web);
    await until(() => expect(seen('delivered')).toBe(1));
    expect(events.map(({ what }) => what)).toEqual(['waiting', 'unsigned', 'written', 'notified', 'delivered']);
  });

  it.each([
    ['the default one', '', '/web'],
    ['the one with its hint', 'hint: internal', '/internal'],
    ['the one of its name', 'spiffe_id: spiffe://example.org/internal', '/internal'],
  ])('of several identities is %s', async (_what, more, expected) => {
    const internal = testEntry('/internal', ['delivery:web'], { hint: 'internal' });
    hold({ ...web, id: '0' }, { ...internal, id: '1' });
    await sign({ ...web, id: '0' });
    await sign({ ...internal, id: '1' });
    start(more);
    await until(() => expect(seen('delivered')).toBe(1));
    expect(new X509Certificate(await read('svid.pem')).subjectAltName).toBe(`URI:spiffe://example.org${expected}`);
  });

  it('cannot choose a name that no entry grants', async () => {
    hold(web);
    await sign(web);
    start('spiffe_id: spiffe://example.org/admin');
    await until(() => expect(seen('waiting')).toBe(1));
    await expect(readdir(place)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('runs its hook after each change, again until it works', async () => {
    const { line, told } = await hook();
    await writeFile(path.join(base, 'refuse'), '');
    hold(web);
    await sign(web);
    start(line);
    await until(() => expect(seen('failed')).toBe(1));
    expect(events.at(-1)).toMatchObject({ what: 'failed', step: 'notify', error: { reason: 'hook.failed' } });
    expect(await serial()).not.toBe('');
    await rm(path.join(base, 'refuse'));
    await clock.advance(1_000);
    await until(() => expect(seen('delivered')).toBe(1));
    expect(await told()).toBe('web updated reload\n');
  });

  it('confirms an update only after it was written and told of', async () => {
    const { line } = await hook();
    await writeFile(path.join(base, 'refuse'), '');
    hold(web);
    await sign(web);
    start(line);
    await until(() => expect(seen('failed')).toBe(1));
    let settled = false;
    void deliveries.settled().then(() => (settled = true));
    await clock.settle();
    expect(settled).toBe(false);
    await rm(path.join(base, 'refuse'));
    await clock.advance(1_000);
    await until(() => expect(settled).toBe(true));
  });

  it('after a restart leaves what is there, and does not tell of it again', async () => {
    const { line, told } = await hook();
    hold(web);
    await sign(web);
    start(line);
    await until(() => expect(seen('delivered')).toBe(1));
    stop.abort(new Error('restart'));
    await over;
    stop = new AbortController();
    events = [];
    start(line);
    await until(() => expect(seen('delivered')).toBe(1));
    expect(events.map(({ what }) => what)).toEqual(['delivered']);
    // On record again: the process before may have ended between writing and recording.
    expect(witnessed.filter((line) => line.startsWith('delivered')).length).toBe(2);
    expect(await told()).toBe('web updated reload\n');
  });

  it('after a restart with another hook tells that one of what is there', async () => {
    const { line, told } = await hook();
    hold(web);
    await sign(web);
    start();
    await until(() => expect(seen('delivered')).toBe(1));
    stop.abort(new Error('restart'));
    await over;
    stop = new AbortController();
    events = [];
    start(line);
    await until(() => expect(seen('delivered')).toBe(1));
    expect(events.map(({ what }) => what)).toEqual(['notified', 'delivered']);
    expect(await told()).toBe('web updated reload\n');
  });
});

describe('an identity that is taken away', () => {
  it('is told of, and its files stay until their certificate ends them', async () => {
    const { line, told } = await hook();
    hold(web);
    const before = await sign(web);
    start(line);
    await until(() => expect(seen('delivered')).toBe(1));
    hold();
    await until(() => expect(seen('lost')).toBe(1));
    await clock.advance(2 * hourMs);
    expect(same(await serial(), before)).toBe(true);
    expect(await told()).toBe('web updated reload\n');
    hold(web);
    const after = await sign(web);
    await until(() => expect(seen('delivered')).toBe(2));
    expect(same(await serial(), after)).toBe(true);
  });

  it('takes its files along where that is wanted, and the hook hears of it', async () => {
    const { line, told } = await hook();
    hold(web);
    await sign(web);
    start(`on_loss: remove\n${line}`);
    await until(() => expect(seen('delivered')).toBe(1));
    hold();
    await until(() => expect(seen('notified')).toBe(2));
    expect(await readdir(place)).toEqual([]);
    expect(await told()).toBe('web updated reload\nweb removed reload\n');
  });

  it.each([
    ['remove', [], 'web updated reload\nweb removed reload\n'],
    ['keep', ['key.pem'], 'web updated reload\n'],
  ])('of an agent that may not be one any more: on_loss %s', async (on, left, heard) => {
    const { line, told } = await hook();
    const more = `on_loss: ${on}\n${line}`;
    hold(web);
    await sign(web);
    start(more);
    await until(() => expect(seen('delivered')).toBe(1));
    stop.abort(new Error('banned'));
    await over;
    await withdrawDelivery(configured(more), clock);
    expect((await readdir(place)).filter((name) => name === 'key.pem')).toEqual(left);
    expect(await told()).toBe(heard);
  });

  it('is not one that is not known yet after a start', async () => {
    hold(web);
    await sign(web);
    start('on_loss: remove');
    await until(() => expect(seen('delivered')).toBe(1));
    stop.abort(new Error('restart'));
    await over;
    stop = new AbortController();
    hold();
    known = false;
    events = [];
    start('on_loss: remove');
    await clock.advance(60_000);
    expect(events).toEqual([]);
    expect(await readdir(place)).toContain('key.pem');
    known = true;
    await clock.advance(2_000);
    await until(() => expect(seen('removed')).toBe(1));
    expect(await readdir(place)).toEqual([]);
  });

  it('is not one whose SVID could not be renewed: its files stay, whatever is wanted', async () => {
    hold(web);
    await sign(web);
    start('on_loss: remove');
    await until(() => expect(seen('delivered')).toBe(1));
    await clock.advance(2 * hourMs);
    cache.sweep();
    await until(() => expect(seen('unsigned')).toBe(1));
    expect(await readdir(place)).toContain('key.pem');
  });
});

describe('tokens', () => {
  const jwt = 'jwt: [{ file: vault.jwt, audience: [vault] }]';

  it('are written with the certificate and renewed in their own time', async () => {
    hold(web);
    await sign(web);
    start(jwt);
    await until(() => expect(seen('delivered')).toBe(1));
    expect(await read('vault.jwt')).toBe('vault.1');
    expect((await stat(path.join(place, 'vault.jwt'))).mode & 0o7777).toBe(0o600);
    await clock.advance(149_000);
    expect(tokensAsked).toBe(1);
    await clock.advance(1_000);
    await until(() => expect(seen('delivered')).toBe(2));
    expect(await read('vault.jwt')).toBe('vault.2');
    // Another certificate is no reason for another token.
    await sign(web);
    await until(() => expect(seen('delivered')).toBe(3));
    expect(tokensAsked).toBe(2);
    expect(await read('vault.jwt')).toBe('vault.2');
  });

  it('do not hold the certificate up, and come when they can', async () => {
    tokenFailure = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
    hold(web);
    await sign(web);
    start(jwt);
    await until(() => expect(seen('delivered')).toBe(1));
    expect(events.find(({ what }) => what === 'no-token')).toMatchObject({ file: 'vault.jwt', error: { reason: 'rpc.unreachable' } });
    expect((await readdir(place)).filter((name) => !name.startsWith('.'))).toEqual(['bundle.pem', 'current', 'key.pem', 'svid.pem']);
    tokenFailure = undefined;
    await clock.advance(1_000);
    await until(() => expect(seen('delivered')).toBe(2));
    expect(await read('vault.jwt')).toBe(`vault.${String(tokensAsked)}`);
  });

  it('that cannot be renewed stay as they are', async () => {
    hold(web);
    await sign(web);
    start(jwt);
    await until(() => expect(seen('delivered')).toBe(1));
    tokenFailure = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
    await clock.advance(150_000);
    await until(() => expect(seen('no-token')).toBe(1));
    expect(await read('vault.jwt')).toBe('vault.1');
  });

  it('that cannot be renewed do not stay beside the certificate of another identity', async () => {
    hold(web);
    await sign(web);
    start(jwt);
    await until(() => expect(seen('delivered')).toBe(1));
    tokenFailure = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
    await clock.advance(150_000);
    await until(() => expect(seen('no-token')).toBe(1));
    const db = testEntry('/db', ['delivery:web']);
    hold(db);
    await sign(db);
    await until(() => expect(seen('delivered')).toBeGreaterThan(1));
    expect(new X509Certificate(await read('svid.pem')).subjectAltName).toBe(`URI:${db.spiffeId}`);
    await expect(read('vault.jwt')).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('are replaced when their authority is tainted', async () => {
    hold(web);
    await sign(web);
    start(jwt);
    await until(() => expect(seen('delivered')).toBe(1));
    tainted = true;
    hold(web);
    await until(() => expect(tokensAsked).toBe(2));
    await until(async () => expect(await read('vault.jwt')).toBe('vault.2'));
  });
});
