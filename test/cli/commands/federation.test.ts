import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testAuthority } from '../../help/agent-server.ts';
import { type Finished, steeple } from '../../help/cli.ts';
import { type LiveServer, startLiveServer } from '../../help/live-server.ts';

let server: LiveServer;
let pemFile = '';
beforeAll(async () => {
  server = await startLiveServer();
  pemFile = join(server.directory, 'far.pem');
  const { certificate } = testAuthority('far');
  await writeFile(pemFile, `-----BEGIN CERTIFICATE-----\n${Buffer.from(certificate).toString('base64')}\n-----END CERTIFICATE-----\n`);
});
afterAll(async () => server[Symbol.asyncDispose]());

const ask = (words: string, ...args: string[]): Promise<Finished> => steeple([...words.split(' '), '--socket', server.socket, ...args]);
async function asked<T>(words: string, ...args: string[]): Promise<T> {
  const { code, out, err } = await ask(words, ...args, '--output', 'json');
  expect([code, err]).toEqual([0, '']);
  return JSON.parse(out) as T;
}

describe('federation', () => {
  // Nothing listens there, and no such address may be connected to.
  const url = 'https://127.0.0.1:9/';

  it('create, show, list, update, refresh and delete', async () => {
    const created = await ask('federation create', '--trust-domain', 'far.example', '--bundle-endpoint-url', url, '--bundle-endpoint-profile', 'https_web');
    expect(created).toMatchObject({ code: 0, err: '' });
    expect(created.out).toMatch(/^Bundle: +pending/m);
    const refreshed = await ask('federation refresh', 'far.example');
    expect(refreshed.code).not.toBe(0);
    expect(refreshed.err).toContain('[bundle-fetch.address]');
    expect((await ask('federation list')).out).toMatch(/^far\.example +https_web +pending +never +in \d+s +[12] +bundle-fetch\.address$/m);
    expect(await asked('federation show', '--trust-domain', 'far.example')).toMatchObject({
      trustDomain: 'far.example',
      bundleEndpointUrl: url,
      bundleEndpointProfile: 'https_web',
      state: { pending: true, fetchedAt: null, reason: 'bundle-fetch.address' },
    });
    const update = ['--bundle-endpoint-profile', 'https_spiffe', '--endpoint-spiffe-id', 'spiffe://far.example/bundle', '--trust-domain-bundle-path', pemFile];
    const updated = await ask('federation update', '--trust-domain', 'far.example', ...update);
    expect(updated.out).toMatch(/^Endpoint SPIFFE ID: spiffe:\/\/far\.example\/bundle$/m);
    expect(updated.out).toMatch(/^Bundle: +sequence 0, 1 X\.509/m);
    expect(updated.out).toContain(url);
    const deleted = await ask('federation delete', '--id', 'far.example');
    expect(deleted).toMatchObject({ code: 0, out: 'relationship deleted\n' });
    expect(deleted.err).toContain('steeple bundle delete --id far.example');
    expect((await ask('bundle list')).out).toMatch(/^far\.example /m);
    expect((await ask('bundle delete', '--id', 'far.example')).code).toBe(0);
    expect((await ask('federation delete', '--id', 'far.example')).code).toBe(1);
  });

  it('SPIRE’s spellings do, and what is shown can be read back', async () => {
    const spires = ['-trustDomain', 'far.example', '-bundleEndpointURL', url, '-bundleEndpointProfile', 'https_spiffe', '-endpointSpiffeID', 'spiffe://far.example/bundle', '-trustDomainBundlePath', pemFile, '-trustDomainBundleFormat', 'pem'];
    expect(await ask('federation create', ...spires)).toMatchObject({ code: 0 });
    const listed = await asked<object[]>('federation list');
    expect(listed).toHaveLength(1);
    expect(await ask('federation delete', '-id', 'far.example', '--bundle', 'restrict')).toMatchObject({ code: 0, out: 'relationship deleted\nbundle deleted\n' });
    const file = join(server.directory, 'all.json');
    await writeFile(file, JSON.stringify(listed));
    const [{ relationship }] = await asked<[{ relationship: object }]>('federation create', '--file', file);
    expect({ ...relationship, state: undefined }).toEqual({ ...listed[0], state: undefined });
    await ask('federation delete', 'far.example', '--bundle', 'dissociate');
    expect((await ask('bundle count')).out).toBe('1\n');
  });

  it('SPIRE’s file: one that is refused does not keep the others back', async () => {
    const pem = await readFile(pemFile, 'utf8');
    const input = JSON.stringify({
      federationRelationships: [
        { trustDomain: 'one.example', bundleEndpointURL: url, bundleEndpointProfile: 'https_web' },
        { trustDomain: 'example.org', bundleEndpointURL: url, bundleEndpointProfile: 'https_web' },
        { trustDomain: 'two.example', bundleEndpointURL: url, bundleEndpointProfile: 'https_spiffe', endpointSpiffeID: 'spiffe://one.example/b', trustDomainBundle: pem, trustDomainBundleFormat: 'pem' },
      ],
    });
    const result = await steeple(['federation', 'create', '--socket', server.socket, '-data', '-'], { input });
    expect(result).toMatchObject({ code: 1, out: '2 done, 1 failed\n', err: 'example.org: unable to create federation relationship for server trust domain\n' });
    for (const name of ['one.example', 'two.example']) await ask('federation delete', name, '--bundle', 'delete');
    expect((await ask('federation list')).out).toBe('');
  });

  it.each([
    ['a profile, as none is guessed', ['create', '--trust-domain', 'far.example', '--bundle-endpoint-url', 'https://far.example/']],
    ['a URL', ['create', '--trust-domain', 'far.example', '--bundle-endpoint-profile', 'https_web']],
    ['the endpoint’s ID', ['create', '--trust-domain', 'far.example', '--bundle-endpoint-url', 'https://far.example/', '--bundle-endpoint-profile', 'https_spiffe']],
    ['a trust domain to show', ['show']],
    ['a trust domain to end', ['delete', 'Not Valid']],
    ['a file that can be read', ['create', '--file', '/nonexistent/x']],
    ['a file with relationships', ['create', '--file', '/dev/null']],
  ])('wants %s', async (_what, words) => {
    expect((await ask(`federation ${words[0]}`, ...words.slice(1))).code).toBe(2);
  });
});
