import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDiskCache, forgetDiskCache, type DiskCache, type SealingKeyFile } from '../../../agent/svids/disk.ts';
import type { HeldWitSvid, HeldX509Svid } from '../../../agent/svids/held.ts';
import { generateKeys, receiveWit, receiveX509 } from '../../../agent/svids/receive.ts';
import { holdingsOf, type Holdings } from '../../../agent/sync/holdings.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { systemClock } from '../../../runtime/clock.ts';
import { testAuthority, testEntry, trustDomain } from '../../help/agent-server.ts';
import { createTestClock } from '../../help/clock.ts';
import { testWitSigner } from '../../help/wit-signer.ts';

const authority = testAuthority();
const bundle = composeBundle({ ...emptyBundle(trustDomain), x509Authorities: [{ certificate: authority.certificate, tainted: true }], sequence: 2n ** 60n, refreshHintSeconds: 3 });

let directory: string;
let problems: string[];
let holdings: Holdings;
let x509: HeldX509Svid[];
let wit: HeldWitSvid[];

beforeEach(async () => {
  directory = path.join(await mkdtemp(path.join(tmpdir(), 'steeple-disk-')), 'cache');
  await mkdir(directory, { mode: 0o700 });
  problems = [];
  x509 = [];
  wit = [];
});

afterEach(() => rm(path.dirname(directory), { recursive: true, force: true }));

async function hold(...entries: readonly RegistrationEntry[]): Promise<void> {
  holdings = holdingsOf({
    position: { epoch: 'e', revision: 7 },
    entries,
    bundles: [bundle],
    authorities: [{ kind: 'x509', id: authority.id, state: 'tainted', expiresAt: 5 }],
  });
  for (const entry of entries) {
    const keys = await generateKeys();
    x509.push(receiveX509(entry, [authority.leaf(entry.spiffeId, keys.publicKey)], keys, { at: systemClock.now(), jitter: 0.25 }));
  }
}

const cacheWith = (keyFile?: SealingKeyFile): DiskCache =>
  createDiskCache({ directory, keyFile, clock: systemClock, content: () => ({ holdings, x509, jwt: [], wit }), onProblem: (error) => problems.push(`${error.reason} ${String(error.detail['because'])}`) });

async function write(keyFile?: SealingKeyFile): Promise<void> {
  const cache = cacheWith(keyFile);
  cache.touch();
  const stop = new AbortController();
  stop.abort(new Error('written when it stops'));
  await cache.run(stop.signal).catch(() => undefined);
}

describe('the restart cache', () => {
  it('gives back what was held, keys included', async () => {
    const entry = testEntry('/a', ['a:1'], { dnsNames: ['a.test'], expiresAt: 9e12, hint: 'h' });
    await hold(entry);
    await write();
    expect((await stat(path.join(directory, 'cache.sealed'))).mode & 0o777).toBe(0o600);
    const content = await cacheWith().read();
    expect(content?.holdings.entries).toEqual([entry]);
    expect(content?.holdings.position).toEqual({ epoch: 'e', revision: 7 });
    expect(content?.holdings.bundles).toEqual([{ ...bundle, x509Authorities: [{ certificate: Buffer.from(authority.certificate), tainted: true }] }]);
    expect(content?.holdings.authorities[0]?.state).toBe('tainted');
    const [svid] = content?.x509 ?? [];
    expect(svid?.key.equals(x509[0]!.key)).toBe(true);
    expect({ ...svid, key: 0, chain: 0 }).toEqual({ ...x509[0], key: 0, chain: 0 });
    expect(problems).toEqual([]);
  });

  it('T-A23: shows nothing of keys, names or tokens in the file', async () => {
    const entry = testEntry('/very-secret-name', ['a:1']);
    await hold(entry);
    await write();
    const file = await readFile(path.join(directory, 'cache.sealed'));
    const key = x509[0]!.key.export({ type: 'pkcs8', format: 'der' });
    for (const needle of ['very-secret-name', key, key.subarray(36, 68), key.toString('base64')]) expect(file.includes(needle)).toBe(false);
  });

  it('gives back WIT-SVIDs with their keys, but for entries that forbid it', async () => {
    const [a, b] = [testEntry('/a', ['a:1']), testEntry('/b', ['a:1'], { forbidCache: true })];
    await hold(a, b);
    const signer = testWitSigner(createTestClock());
    for (const entry of [a, b]) {
      const keys = await generateKeys();
      const [signed] = await signer.signWit([{ entry, keys, process: undefined }]);
      if (signed !== undefined && 'token' in signed) wit.push(receiveWit(entry, signed.token, keys, { at: 0, jitter: 0.25 }));
    }
    await write();
    const content = await cacheWith().read();
    expect(content?.wit.length).toBe(1);
    expect({ ...content?.wit[0], key: 0 }).toEqual({ ...wit[0], key: 0 });
    expect(content?.wit[0]?.key.equals(wit[0]!.key)).toBe(true);
    const file = await readFile(path.join(directory, 'cache.sealed'));
    expect(file.includes(wit[0]!.token.slice(0, 40))).toBe(false);
  });

  it('leaves out the SVIDs of entries that forbid it', async () => {
    await hold(testEntry('/a', ['a:1']), testEntry('/b', ['a:1'], { forbidCache: true }));
    await write();
    const content = await cacheWith().read();
    expect(content?.x509.map(({ spiffeId }) => spiffeId)).toEqual(['spiffe://example.org/a']);
    // The entry itself is known: its workload waits instead of being denied.
    expect(content?.holdings.entries.length).toBe(2);
  });

  it.each([
    ['changed', async () => {
      const file = await readFile(path.join(directory, 'cache.sealed'));
      file[file.length - 20]! ^= 1;
      await writeFile(path.join(directory, 'cache.sealed'), file);
    }, 'disk.read seal.broken'],
    ['cut short', async () => writeFile(path.join(directory, 'cache.sealed'), 'STPL'), 'disk.read seal.format'],
    ['sealed with another key', async () => writeFile(path.join(directory, 'cache.key'), Buffer.alloc(32, 7)), 'disk.read seal.broken'],
    ['readable for others', async () => {
      const { chmod } = await import('node:fs/promises');
      await chmod(path.join(directory, 'cache.sealed'), 0o644);
    }, 'disk.read files.mode'],
  ] as const)('is refused and ignored when it was %s', async (_how, spoil, problem) => {
    await hold(testEntry('/a', ['a:1']));
    await write();
    await spoil();
    expect(await cacheWith().read()).toBeUndefined();
    expect(problems).toEqual([problem]);
  });

  it('is sealed with a configured key, and then keeps none beside it', async () => {
    const keyFile = path.join(path.dirname(directory), 'key');
    await writeFile(keyFile, Buffer.alloc(32, 3), { mode: 0o600 });
    await hold(testEntry('/a', ['a:1']));
    await write({ path: keyFile, kind: 'private' });
    expect(await readdir(directory)).toEqual(['cache.sealed']);
    expect((await cacheWith({ path: keyFile, kind: 'private' }).read())?.x509.length).toBe(1);
    expect(await cacheWith().read()).toBeUndefined();
  });

  it('is no problem when there is none', async () => {
    expect(await cacheWith().read()).toBeUndefined();
    expect(problems).toEqual([]);
  });

  it('can be forgotten', async () => {
    await hold(testEntry('/a', ['a:1']));
    await write();
    await forgetDiskCache(directory);
    expect(await readdir(directory)).toEqual([]);
  });
});
