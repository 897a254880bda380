import { X509Certificate, createPrivateKey } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeWorkloadApi } from '../../../client/testing/fake-workload-api.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { receiveWitSvid } from '../../../spiffe/wit-svid.ts';
import { testAuthority } from '../../help/agent-server.ts';
import { steeple } from '../../help/cli.ts';
import { granted, grantedSvid, type ScriptedApi, startWorkloadApi } from '../../help/workload-api.ts';

const home = testAuthority('home');
const alpha = 'spiffe://example.org/alpha';
const beta = 'spiffe://example.org/beta';

let agent: ScriptedApi;
let directory: string;
beforeEach(async () => {
  agent = await startWorkloadApi();
  directory = await mkdtemp(join(tmpdir(), 'steeple-svid-'));
});
afterEach(async () => {
  await agent[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

const path = (): string => agent.address.slice('unix://'.length);

describe('svid fetch', () => {
  it('finds the agent by address, by path and by the environment', async () => {
    agent.x509(granted(home, alpha));
    const expected = { code: 0, out: expect.stringMatching(/^SPIFFE ID: +spiffe:\/\/example\.org\/alpha$/m) as string, err: '' };
    expect(await steeple(['svid', 'fetch', '--socket', agent.address])).toEqual(expected);
    expect(await steeple(['svid', 'fetch', '-socketPath', path()])).toEqual(expected);
    expect(await steeple(['svid', 'fetch'], { env: { SPIFFE_ENDPOINT_SOCKET: agent.address } })).toEqual(expected);
  });

  it('prints JSON', async () => {
    agent.x509({ svids: [grantedSvid(home, alpha, { hint: 'h' }), grantedSvid(home, beta)] });
    const { out } = await steeple(['svid', 'fetch', '--socket', path(), '--output', 'json']);
    const { svids, bundles } = JSON.parse(out) as { svids: { spiffeId: string; hint: string; certificates: string }[]; bundles: Record<string, string> };
    expect(svids.map(({ spiffeId, hint }) => [spiffeId, hint])).toEqual([[alpha, 'h'], [beta, '']]);
    expect(new X509Certificate(svids[0]?.certificates ?? '').subjectAltName).toBe(`URI:${alpha}`);
    expect(new X509Certificate(bundles['example.org'] ?? '').raw.equals(home.certificate)).toBe(true);
    expect(out).not.toContain('PRIVATE KEY');
  });

  it('writes files that belong together, keys for their owner alone', async () => {
    agent.x509(granted(home, alpha, beta));
    const dir = join(directory, 'out');
    for (let times = 0; times < 2; times += 1) expect((await steeple(['svid', 'fetch', '--socket', path(), '-write', dir])).code).toBe(0);
    expect((await readdir(dir)).toSorted()).toEqual(['bundle.0.pem', 'bundle.1.pem', 'svid.0.key', 'svid.0.pem', 'svid.1.key', 'svid.1.pem']);
    for (const index of [0, 1]) {
      expect((await stat(join(dir, `svid.${index}.key`))).mode & 0o777).toBe(0o600);
      const certificate = new X509Certificate(await readFile(join(dir, `svid.${index}.pem`)));
      expect(certificate.checkPrivateKey(createPrivateKey(await readFile(join(dir, `svid.${index}.key`))))).toBe(true);
      expect(certificate.verify(new X509Certificate(await readFile(join(dir, `bundle.${index}.pem`))).publicKey)).toBe(true);
    }
  });

  it('fetches tokens for an audience', async () => {
    const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    agent.tokens = ({ audience, spiffe_id }) => {
      const id = spiffe_id || alpha;
      return { svids: [{ spiffe_id: id, svid: `${part({ alg: 'ES256', kid: 'k' })}.${part({ sub: id, aud: audience, exp: 4_000_000_000 })}.${Buffer.alloc(64).toString('base64url')}` }] };
    };
    expect((await steeple(['svid', 'fetch', '--socket', path(), '--audience', 'db'])).out).toMatch(new RegExp(`^${alpha}\n[\\w.-]+\n$`));
    const { out } = await steeple(['svid', 'fetch', '--socket', path(), '--audience', 'db', '--audience', 'cache', '--spiffe-id', beta, '--output', 'json']);
    expect(JSON.parse(out)).toMatchObject([{ spiffeId: beta, expiresAt: '2096-10-02T07:06:40Z' }]);
  });

  it('fetches WIT-SVIDs, and writes their keys where it is told to, and nowhere else', async () => {
    await using fake = await FakeWorkloadApi.start();
    fake.grant('/alpha', '/beta');
    const dir = join(directory, 'wits');
    const { code, out } = await steeple(['svid', 'fetch', '--wit', '--socket', fake.address, '--dir', dir, '--output', 'json']);
    const printed = JSON.parse(out) as { spiffeId: string; token: string }[];
    expect([code, printed.map(({ spiffeId }) => spiffeId)]).toEqual([0, [alpha, beta]]);
    expect((await readdir(dir)).toSorted()).toEqual(['wit.0.jwk', 'wit.0.jwt', 'wit.1.jwk', 'wit.1.jwt']);
    expect((await stat(join(dir, 'wit.1.jwk'))).mode & 0o777).toBe(0o600);
    const key = await readFile(join(dir, 'wit.1.jwk'), 'utf8');
    expect(receiveWitSvid(await readFile(join(dir, 'wit.1.jwt'), 'utf8'), key).token).toBe(printed[1]?.token);
    expect(out).not.toContain((JSON.parse(key) as { d: string }).d);
    const one = await steeple(['svid', 'fetch', '--wit', '--spiffe-id', beta, '--socket', fake.address]);
    expect(one.out).toMatch(new RegExp(`^${beta}\n[\\w.-]+\n$`));
  });

  it.each([
    ['denied', new SpiffeError('denied', 'workload.no-identity', 'no identity issued'), 77],
    ['starting', new SpiffeError('unavailable', 'workload.starting', 'starting'), 69],
  ])('exits as it was refused: %s', async (_what, refusal, code) => {
    agent.x509(refusal);
    expect(await steeple(['svid', 'fetch', '--socket', path()])).toMatchObject({ code, out: '', err: expect.stringContaining(`[${refusal.reason}]`) });
  });

  it('refuses an address that is none', async () => {
    expect((await steeple(['svid', 'fetch'], { env: { SPIFFE_ENDPOINT_SOCKET: '/run/x.sock' } })).err).toContain('[endpoint.scheme]');
  });
});

describe('svid watch', () => {
  it('prints each update until it is interrupted', async () => {
    agent.x509(granted(home, alpha));
    const stop = new AbortController();
    const ids: string[] = [];
    const watching = steeple(['svid', 'watch', '--socket', path(), '--output', 'json'], {
      signal: stop.signal,
      onOut(text) {
        ids.push((JSON.parse(text) as { svids: { spiffeId: string }[] }).svids[0]?.spiffeId ?? '');
        if (ids.length === 1) agent.x509(granted(home, beta));
        else stop.abort(new SpiffeError('unavailable', 'cli.interrupted', 'interrupted'));
      },
    });
    expect((await watching).code).toBe(0);
    expect(ids).toEqual([alpha, beta]);
  });
});

describe('svid validate', () => {
  it('prints what the token says, from a flag or from input', async () => {
    agent.validate = ({ audience, svid }) => ({ spiffe_id: alpha, claims: { fields: { aud: { stringValue: audience, kind: 'stringValue' }, token: { stringValue: svid, kind: 'stringValue' } } } });
    expect((await steeple(['svid', 'validate', '--socket', path(), '--audience', 'db', '--svid', 'a.b.c'])).out).toBe(`${alpha}\n{"aud":"db","token":"a.b.c"}\n`);
    const { out } = await steeple(['svid', 'validate', '--socket', path(), '--audience', 'db', '--output', 'json'], { input: ' x.y.z\n' });
    expect(JSON.parse(out)).toEqual({ spiffeId: alpha, claims: { aud: 'db', token: 'x.y.z' } });
  });

  it('exits 1 for a token that does not hold, and 2 without an audience', async () => {
    expect(await steeple(['svid', 'validate', '--socket', path(), '--audience', 'db', '--svid', 'a.b.c'])).toMatchObject({ code: 1, out: '' });
    expect((await steeple(['svid', 'validate', '--socket', path(), '--svid', 'a.b.c'])).code).toBe(2);
  });
});
