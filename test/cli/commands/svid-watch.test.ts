import { X509Certificate, createPrivateKey } from 'node:crypto';
import { chmod, mkdtemp, readdir, readFile, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { testAuthority } from '../../help/agent-server.ts';
import { steeple } from '../../help/cli.ts';
import { granted, grantedSvid, noIdentity, type ScriptedApi, startWorkloadApi } from '../../help/workload-api.ts';

const home = testAuthority('home');
const away = testAuthority('away');
const alpha = 'spiffe://example.org/alpha';
const beta = 'spiffe://example.org/beta';

let agent: ScriptedApi;
let directory: string;
let place: string;
beforeEach(async () => {
  agent = await startWorkloadApi();
  directory = await realpath(await mkdtemp(join(tmpdir(), 'steeple-watch-')));
  place = join(directory, 'tls');
});
afterEach(async () => {
  await agent[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

const read = (name: string): Promise<string> => readFile(join(place, name), 'utf8');
const names = async (): Promise<readonly string[]> => (await readdir(place)).filter((name) => !name.startsWith('.') && name !== 'current').toSorted();
const idOf = async (): Promise<string | undefined> => new X509Certificate(await read('svid.pem')).subjectAltName;

function watch(...flags: readonly string[]): ReturnType<typeof steeple> {
  return steeple(['svid', 'watch', '--socket', agent.address, '--dir', place, ...flags]);
}

/** Runs until `stop` is called; `shown` has what it printed. */
function watching(...flags: readonly string[]) {
  const stop = new AbortController();
  const shown: string[] = [];
  const over = steeple(['svid', 'watch', '--socket', agent.address, '--dir', place, ...flags], { signal: stop.signal, onOut: (text) => shown.push(text) });
  return {
    shown,
    end() {
      stop.abort(new SpiffeError('unavailable', 'cli.interrupted', 'interrupted'));
      return over;
    },
  };
}

async function hook(text: string): Promise<string> {
  const file = join(directory, 'hook');
  await writeFile(file, `#!/bin/sh\n${text}\n`);
  await chmod(file, 0o755);
  return file;
}

const token = (id: string, audience: readonly string[], expiresAt = 4_000_000_000): string => {
  const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  return `${part({ alg: 'ES256', kid: 'k' })}.${part({ sub: id, aud: audience, exp: expiresAt })}.${Buffer.alloc(64).toString('base64url')}`;
};

describe('svid watch --once', () => {
  it('writes files that belong together and ends', async () => {
    agent.x509(granted(home, alpha, beta));
    const { code, out, err } = await watch('--once');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toMatch(/^SPIFFE ID: +spiffe:\/\/example\.org\/alpha$/m);
    expect(out).not.toContain(beta);
    expect(await names()).toEqual(['bundle.pem', 'key.pem', 'svid.pem']);
    expect((await stat(join(place, 'key.pem'))).mode & 0o777).toBe(0o600);
    const certificate = new X509Certificate(await read('svid.pem'));
    expect(certificate.checkPrivateKey(createPrivateKey(await read('key.pem')))).toBe(true);
    expect(new X509Certificate(await read('bundle.pem')).raw.equals(home.certificate)).toBe(true);
  });

  it.each([
    ['by name', ['--spiffe-id', beta]],
    ['by hint', ['--hint', 'h']],
  ])('takes another identity %s', async (_what, flags) => {
    agent.x509({ svids: [grantedSvid(home, alpha), grantedSvid(home, beta, { hint: 'h' })] });
    expect((await watch('--once', ...flags)).code).toBe(0);
    expect(await idOf()).toBe(`URI:${beta}`);
  });

  it('names files and modes as it is told, and writes no others', async () => {
    agent.x509({ ...granted(home, alpha), federated_bundles: { 'spiffe://other.example': Buffer.from(away.certificate) } });
    agent.tokens = ({ audience, spiffe_id }) => ({ svids: [{ spiffe_id, svid: token(spiffe_id, audience) }] });
    const flags = ['--combined-file', 'proxy.pem', '--bundle-file', 'ca.pem', '--bundle-format', 'pem_federated', '--mode', '0640', '--jwt', 'https://vault/?a=b=vault.jwt'];
    expect(await watch('--once', ...flags)).toMatchObject({ code: 0, err: '' });
    expect(await names()).toEqual(['ca.pem', 'proxy.pem', 'vault.jwt']);
    expect((await stat(join(place, 'proxy.pem'))).mode & 0o777).toBe(0o640);
    expect((await stat(join(place, 'ca.pem'))).mode & 0o777).toBe(0o644);
    expect((await read('ca.pem')).match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
    expect(await read('proxy.pem')).toMatch(/END CERTIFICATE-----\n-----BEGIN PRIVATE KEY/);
    const claims = JSON.parse(Buffer.from((await read('vault.jwt')).split('.')[1] ?? '', 'base64url').toString()) as object;
    expect(claims).toMatchObject({ sub: alpha, aud: ['https://vault/?a=b'] });
  });

  it('writes a bundle document with both kinds of keys once it has both', async () => {
    agent.x509(granted(home, alpha));
    agent.jwtBundles({ bundles: { 'spiffe://example.org': Buffer.from('{"keys":[]}') } });
    expect((await watch('--once', '--bundle-file', 'bundle.json', '--bundle-format', 'spiffe_map')).code).toBe(0);
    const map = JSON.parse(await read('bundle.json')) as { trust_domains: Record<string, { keys: { use: string }[] }> };
    expect(map.trust_domains['example.org']?.keys.map(({ use }) => use)).toEqual(['x509-svid']);
  });

  it('runs its hook first, and exits as that failed', async () => {
    agent.x509(granted(home, alpha));
    const good = await hook(`echo "$STEEPLE_CHANGE $1 $(cat ${place}/svid.pem | head -c 10)" > ${directory}/told`);
    expect((await watch('--once', '--hook', `${good} reload`)).code).toBe(0);
    expect(await readFile(join(directory, 'told'), 'utf8')).toBe('updated reload -----BEGIN\n');
    await rm(place, { recursive: true });
    const bad = await hook('echo "not now" >&2; exit 9');
    expect(await watch('--once', '--hook', bad)).toMatchObject({ code: 69, err: expect.stringContaining('exit code 9: not now') });
  });

  it('is followed by a hook for what it wrote without one', async () => {
    agent.x509(granted(home, alpha));
    expect((await watch('--once')).code).toBe(0);
    const late = await hook(`touch ${directory}/told`);
    for (let times = 0; times < 2; times += 1) {
      expect((await watch('--once', '--hook', late)).code).toBe(0);
      // Told of these files once, it is not told of them again.
      expect((await readdir(directory)).includes('told')).toBe(times === 0);
      await rm(join(directory, 'told'), { force: true });
    }
  });

  it('says what kept it from an identity when its time is over', async () => {
    agent.x509(noIdentity);
    expect(await watch('--once', '--timeout', '1')).toMatchObject({ code: 77, err: expect.stringContaining('[workload.no-identity]') });
    agent.x509(granted(home, alpha));
    expect(await watch('--once', '--timeout', '1', '--hint', 'none')).toMatchObject({ code: 77, err: expect.stringContaining('[cli.svid.not-granted]') });
    expect(await readdir(directory)).toEqual([]);
  });

  it('refuses a directory that others may change', async () => {
    agent.x509(granted(home, alpha));
    await chmod(directory, 0o777);
    expect(await watch('--once')).toMatchObject({ code: 77, err: expect.stringContaining('[secret-files.writable]') });
  });
});

describe('svid watch --dir', () => {
  it('keeps the files newest, runs the hook for each, and ends well when it is told to', async () => {
    agent.x509(granted(home, alpha));
    const counting = await hook(`echo x >> ${directory}/count`);
    const running = watching('--hook', counting);
    for (let turn = 1; turn <= 3; turn += 1) {
      await vi.waitFor(() => expect(running.shown).toHaveLength(turn), { timeout: 5_000 });
      const certificate = new X509Certificate(await read('svid.pem'));
      expect(certificate.checkPrivateKey(createPrivateKey(await read('key.pem')))).toBe(true);
      agent.x509(granted(home, alpha));
    }
    expect((await readFile(join(directory, 'count'), 'utf8')).split('\n').length).toBeGreaterThanOrEqual(4);
    expect(await running.end()).toMatchObject({ code: 0, err: '' });
  });

  it('renews a token at half of its life', async () => {
    let asked = 0;
    agent.tokens = ({ audience, spiffe_id }) => {
      asked += 1;
      return { svids: [{ spiffe_id, svid: token(spiffe_id, [...audience, String(asked)], Math.floor(Date.now() / 1000) + 3) }] };
    };
    agent.x509(granted(home, alpha));
    const running = watching('--jwt', 'db=db.jwt', '--cert-file', 'svid.pem');
    await vi.waitFor(() => expect(running.shown.length).toBeGreaterThanOrEqual(2), { timeout: 8_000 });
    expect(asked).toBeGreaterThanOrEqual(2);
    await running.end();
  });

  it('writes no token beside the certificate of another identity', async () => {
    let answering = true;
    agent.tokens = ({ audience, spiffe_id }) => {
      if (!answering) throw new SpiffeError('unavailable', 'workload.jwt-unavailable', 'could not fetch JWT-SVID');
      return { svids: [{ spiffe_id, svid: token(spiffe_id, audience) }] };
    };
    agent.x509(granted(home, alpha));
    const log = join(directory, 'log');
    // Of each set: which certificate, and whether there is a token.
    const line = await hook(`echo "$(cksum < ${place}/svid.pem | cut -d' ' -f1) $(test -e ${place}/vault.jwt && echo token)" >> ${log}`);
    const { end } = watching('--jwt', 'vault=vault.jwt', '--hook', line);
    await vi.waitFor(async () => expect(await readFile(log, 'utf8')).toMatch(/^\d+ token\n$/), { timeout: 5_000 });
    answering = false;
    agent.x509(granted(home, beta));
    await vi.waitFor(async () => expect(await names()).not.toContain('vault.jwt'), { timeout: 5_000 });
    await vi.waitFor(async () => expect(await readFile(log, 'utf8')).toMatch(/^\d+ token\n\d+ \n$/), { timeout: 5_000 });
    expect(await idOf()).toBe(`URI:${beta}`);
    await end();
  });

  it('writes certificates though a token is not to be had, and says so', async () => {
    agent.tokens = () => {
      throw new SpiffeError('unavailable', 'workload.jwt-unavailable', 'could not fetch JWT-SVID');
    };
    agent.x509(granted(home, alpha));
    const running = watching('--jwt', 'db=db.jwt');
    await vi.waitFor(() => expect(running.shown).toHaveLength(1), { timeout: 5_000 });
    expect(await names()).toEqual(['bundle.pem', 'key.pem', 'svid.pem']);
    expect((await running.end()).err).toContain('[workload.jwt-unavailable]');
  });

  it('keeps the files of an identity that is taken away, and says so once', async () => {
    agent.x509(granted(home, alpha));
    const running = watching();
    await vi.waitFor(() => expect(running.shown).toHaveLength(1), { timeout: 5_000 });
    agent.x509(noIdentity);
    await vi.waitFor(() => expect(agent.calls.get('FetchX509SVID')).toBeGreaterThanOrEqual(4), { timeout: 8_000 });
    expect(await idOf()).toBe(`URI:${alpha}`);
    const { err } = await running.end();
    expect(err.match(/workload\.no-identity/g)).toHaveLength(1);
  });

  it('removes them where that is wanted, and brings them back with the identity', async () => {
    agent.x509(granted(home, alpha));
    const running = watching('--on-loss', 'remove');
    await vi.waitFor(() => expect(running.shown).toHaveLength(1), { timeout: 5_000 });
    agent.x509(noIdentity);
    await vi.waitFor(async () => expect(await readdir(place)).toEqual([]), { timeout: 5_000 });
    agent.x509(granted(home, alpha));
    await vi.waitFor(() => expect(running.shown).toHaveLength(2), { timeout: 8_000 });
    expect(await idOf()).toBe(`URI:${alpha}`);
    await running.end();
  });
});

describe('svid watch', () => {
  it.each([
    ['files without a directory', ['--hook', 'x'], 'cli.svid.dir'],
    ['once without a directory', ['--once'], 'cli.svid.dir'],
    ['a hook that wants a shell', ['--dir', '/x', '--hook', 'a | b'], 'cli.svid.hook'],
    ['a hook with quotes', ['--dir', '/x', '--hook', 'a "b c"'], 'cli.svid.hook'],
    ['an empty hook', ['--dir', '/x', '--hook', ' '], 'cli.svid.hook'],
    ['hook and signal', ['--dir', '/x', '--hook', 'a', '--signal', 'HUP', '--pid-file', '/p'], 'cli.svid.hook'],
    ['a signal to nobody', ['--dir', '/x', '--signal', 'HUP'], 'cli.svid.signal'],
    ['a pid-file for nothing', ['--dir', '/x', '--pid-file', '/p'], 'cli.svid.signal'],
    ['a signal that is none', ['--dir', '/x', '--signal', 'KILL', '--pid-file', '/p'], 'cli.flag.value'],
    ['a file elsewhere', ['--dir', '/x', '--key-file', '../k'], 'cli.svid.file'],
    ['a file twice', ['--dir', '/x', '--key-file', 'k', '--cert-file', 'k'], 'cli.svid.file'],
    ['a token without a file', ['--dir', '/x', '--jwt', 'vault'], 'cli.svid.jwt'],
    ['a mode for everybody', ['--dir', '/x', '--mode', '0644'], 'cli.flag.value'],
    ['an identity by two names', ['--dir', '/x', '--hint', 'h', '--spiffe-id', alpha], 'cli.svid.identity'],
  ])('refuses %s', async (_what, flags, reason) => {
    expect(await steeple(['svid', 'watch', '--socket', agent.address, ...flags])).toMatchObject({ code: 2, out: '', err: expect.stringContaining(`[${reason}]`) });
  });
});
