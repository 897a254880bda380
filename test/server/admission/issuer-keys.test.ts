import { generateKeyPairSync } from 'node:crypto';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { createIssuerKeys, openIssuerKeys, parseKeySet, type IssuerKeys, type OidcKeyPlace } from '../../../server/admission/issuer-keys.ts';
import type { IssuerKey } from '../../../server/admission/oidc-token.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { createClusterAuthority } from '../../help/kubernetes-tls.ts';
import { createOidcSigner, discoveryPath, keysPath, serveOidc, type OidcServer } from '../../help/oidc.ts';

const first = createOidcSigner('key-1');
const second = createOidcSigner('key-2', 'ES256');
const setOf = (...keys: readonly unknown[]): Buffer => Buffer.from(JSON.stringify({ keys }));
const namesOf = (keys: readonly IssuerKey[]): readonly (string | undefined)[] => keys.map(({ keyId }) => keyId);

describe('parseKeySet', () => {
  it('takes keys that sign, with what the set says of them', () => {
    const { alg: _alg, use: _use, kid: _kid, ...bare } = second.jwk;
    expect(parseKeySet(setOf(first.jwk, bare)).map(({ keyId, algorithm, key }) => [keyId, algorithm, key.asymmetricKeyType])).toEqual([
      ['key-1', 'RS256', 'rsa'],
      [undefined, undefined, 'ec'],
    ]);
  });

  const ed25519 = generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' });
  const weak = generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey.export({ format: 'jwk' });
  it.each([
    ['one that encrypts', { ...second.jwk, use: 'enc' }],
    ['one that only signs', { ...second.jwk, key_ops: ['sign'] }],
    ['one for an algorithm that is none of ours', { ...second.jwk, alg: 'HS256' }],
    ['one for an algorithm that does not fit it', { ...second.jwk, alg: 'RS256' }],
    ['one for the algorithm of another curve', { ...second.jwk, alg: 'ES384' }],
    ['one of a kind that is not allowed', { ...ed25519, kid: 'x' }],
    ['one that is too short', { ...weak, kid: 'x' }],
    ['one on an unknown curve', { ...second.jwk, crv: 'secp256k1' }],
    ['one that is off its curve', { ...second.jwk, x: Buffer.alloc(32, 1).toString('base64url') }],
    ['one that lacks a member', { kty: 'RSA', kid: 'x', e: 'AQAB' }],
    ['one with a number for its ID', { ...second.jwk, kid: 1 }],
    ['one with an empty ID', { ...second.jwk, kid: '' }],
    ['one that is no object', 'key'],
  ])('leaves %s alone [RFC 7517 5]', (_what, element) => {
    expect(namesOf(parseKeySet(setOf(element, first.jwk)))).toEqual(['key-1']);
  });

  it.each([
    ['no JSON', Buffer.from('{'), 'json.syntax'],
    ['a list', Buffer.from('[]'), 'oidc-ci.key-set'],
    ['no keys', Buffer.from('{}'), 'oidc-ci.key-set'],
    ['an empty list', setOf(), 'oidc-ci.key-set'],
    ['a shared key alone', setOf({ kty: 'oct', kid: 'x' }), 'oidc-ci.key-set'],
    ['two lists', Buffer.from(`{"keys":[],"keys":[${JSON.stringify(first.jwk)}]}`), 'json.repeated-member'],
    ['a private key', setOf(first.jwk, second.privateKey.export({ format: 'jwk' })), 'jwk.secret'],
    ['101 keys', setOf(...Array.from({ length: 101 }, () => first.jwk)), 'oidc-ci.key-set'],
    ['300 kB', Buffer.concat([setOf(first.jwk), Buffer.alloc(300_000, 0x20)]), 'json.too-large'],
  ])('refuses %s', (_what, bytes, reason) => {
    expect(() => parseKeySet(bytes)).toThrow(expect.objectContaining({ kind: 'invalid', reason }));
  });
});

describe('createIssuerKeys', () => {
  interface Source {
    readonly clock: TestClock;
    readonly keys: IssuerKeys;
    looks: number;
    answer: () => Promise<readonly IssuerKey[]>;
  }
  const sourceOf = (freshMs = 600_000): Source => {
    const clock = createTestClock();
    const source: Source = {
      clock,
      looks: 0,
      answer: async () => parseKeySet(setOf(first.jwk)),
      keys: createIssuerKeys({
        clock,
        freshMs,
        load() {
          source.looks += 1;
          return source.answer();
        },
      }),
    };
    return source;
  };

  it('looks once for many who ask at once, and not again while the answer is fresh', async () => {
    const source = sourceOf();
    expect(await Promise.all(Array.from({ length: 50 }, () => source.keys.current('key-1')))).toHaveLength(50);
    await source.clock.advance(599_000);
    await source.keys.current('key-1');
    expect(source.looks).toBe(1);
    await source.clock.advance(1_000);
    await source.keys.current(undefined);
    expect(source.looks).toBe(2);
  });

  it('looks again for a key it has not seen, at most every ten seconds', async () => {
    const source = sourceOf();
    await source.keys.current('key-1');
    await source.clock.advance(10_000);
    source.answer = async () => parseKeySet(setOf(first.jwk, second.jwk));
    expect(namesOf(await source.keys.current('key-2'))).toEqual(['key-1', 'key-2']);
    for (let asked = 0; asked < 100; asked += 1) await source.keys.current(`forged-${asked}`);
    expect(source.looks).toBe(2);
    await source.clock.advance(10_000);
    for (let asked = 0; asked < 100; asked += 1) await source.keys.current(`forged-${asked}`);
    expect(source.looks).toBe(3);
  });

  it('uses what it saw for an hour when nothing new can be had, then nothing', async () => {
    const source = sourceOf();
    await source.keys.current('key-1');
    source.answer = () => Promise.reject(new Error('away'));
    await source.clock.advance(3_590_000);
    expect(namesOf(await source.keys.current('key-1'))).toEqual(['key-1']);
    await source.clock.advance(10_000);
    await expect(source.keys.current('key-1')).rejects.toMatchObject({ kind: 'unavailable', reason: 'oidc-ci.keys' });
    source.answer = async () => parseKeySet(setOf(second.jwk));
    await source.clock.advance(10_000);
    expect(namesOf(await source.keys.current('key-2'))).toEqual(['key-2']);
  });

  it('forgets a key that was withdrawn', async () => {
    const source = sourceOf();
    source.answer = async () => parseKeySet(setOf(first.jwk, second.jwk));
    await source.keys.current('key-2');
    source.answer = async () => parseKeySet(setOf(first.jwk));
    await source.clock.advance(600_000);
    expect(namesOf(await source.keys.current('key-2'))).toEqual(['key-1']);
  });

  it('does not wear out a source that fails', async () => {
    const source = sourceOf();
    source.answer = () => Promise.reject(new Error('away'));
    for (let asked = 0; asked < 20; asked += 1) await expect(source.keys.current('key-1')).rejects.toMatchObject({ reason: 'oidc-ci.keys' });
    expect(source.looks).toBe(1);
    await source.clock.advance(10_000);
    await expect(source.keys.current('key-1')).rejects.toMatchObject({ reason: 'oidc-ci.keys' });
    expect(source.looks).toBe(2);
  });
});

describe('openIssuerKeys', () => {
  const serve = async (...keys: readonly object[]): Promise<OidcServer> => {
    const server = await serveOidc(...keys);
    onTestFinished(() => server[Symbol.asyncDispose]());
    return server;
  };
  const open = ({ issuer, ca }: OidcServer, changed: Partial<Extract<OidcKeyPlace, { discovery: true }>> = {}, name = issuer): IssuerKeys =>
    openIssuerKeys(name, { discovery: true, ca, ...changed }, createTestClock());

  it('finds the keys by the discovery document, and keeps no connection', async () => {
    const server = await serve(first.jwk, second.jwk);
    const keys = open(server);
    expect(namesOf(await keys.current('key-1'))).toEqual(['key-1', 'key-2']);
    expect(server.requests).toEqual([discoveryPath, keysPath]);
  });

  it.each(['/org/1a2b', '/org/1a2b/'])('finds those of an issuer at %s', async (place) => {
    const server = await serve(first.jwk);
    const issuer = `${server.issuer}${place}`;
    server.pages.set(`/org/1a2b${discoveryPath}`, { issuer, jwks_uri: `${server.issuer}/org/1a2b/keys?v=1` });
    server.pages.set('/org/1a2b/keys?v=1', { keys: [first.jwk] });
    expect(namesOf(await open(server, {}, issuer).current(undefined))).toEqual(['key-1']);
  });

  it('follows to another host only where that is configured', async () => {
    const [server, elsewhere] = [await serve(), await serve(second.jwk)];
    server.pages.set(discoveryPath, { issuer: server.issuer, jwks_uri: `${elsewhere.issuer}${keysPath}` });
    await expect(open(server).current(undefined)).rejects.toMatchObject({ reason: 'oidc-ci.keys', detail: { because: 'oidc-ci.key-set' } });
    expect(elsewhere.requests).toEqual([]);
    const ca = `${server.ca}${elsewhere.ca}`;
    expect(namesOf(await open(server, { ca, jwksHost: new URL(elsewhere.issuer).host }).current(undefined))).toEqual(['key-2']);
  });

  const documents: readonly (readonly [what: string, document: (issuer: string) => object | string])[] = [
    ['another issuer', (issuer) => ({ issuer: 'https://other.example', jwks_uri: `${issuer}${keysPath}` })],
    ['the issuer with a slash', (issuer) => ({ issuer: `${issuer}/`, jwks_uri: `${issuer}${keysPath}` })],
    ['no issuer', (issuer) => ({ jwks_uri: `${issuer}${keysPath}` })],
    ['no place for keys', (issuer) => ({ issuer })],
    ['T-B06: keys in the clear', (issuer) => ({ issuer, jwks_uri: `${issuer.replace('https', 'http')}${keysPath}` })],
    ['T-B06: keys in a file', (issuer) => ({ issuer, jwks_uri: 'file:///etc/passwd' })],
    ['T-B06: keys at a metadata service', (issuer) => ({ issuer, jwks_uri: 'https://169.254.169.254/latest' })],
    ['T-B06: keys at another port', (issuer) => ({ issuer, jwks_uri: 'https://127.0.0.1:1/keys' })],
    ['T-B06: keys at another name of the host', (issuer) => ({ issuer, jwks_uri: `${issuer.replace('127.0.0.1', 'localhost')}${keysPath}` })],
    ['T-B06: keys behind a password', (issuer) => ({ issuer, jwks_uri: `${issuer.replace('//', '//127.0.0.1@')}${keysPath}` })],
    ['keys in a list', (issuer) => ({ issuer, jwks_uri: [`${issuer}${keysPath}`] })],
    ['two places for keys', (issuer) => `{"issuer":"${issuer}","jwks_uri":"x","jwks_uri":"${issuer}${keysPath}"}`],
    ['no object', () => '[]'],
    ['100 kB', (issuer) => ({ issuer, jwks_uri: `${issuer}${keysPath}`, filler: 'x'.repeat(100_000) })],
  ];
  it.each(documents)('takes no keys from a document with %s', async (_what, document) => {
    const server = await serve(first.jwk);
    server.pages.set(discoveryPath, document(server.issuer));
    await expect(open(server).current('key-1')).rejects.toMatchObject({ kind: 'unavailable', reason: 'oidc-ci.keys' });
    expect(server.requests).toEqual([discoveryPath]);
  });

  it('T-B06: follows no redirect', async () => {
    const server = await serve(first.jwk);
    server.pages.set('/moved', { keys: [first.jwk] });
    server.pages.set(keysPath, (_incoming, response) => void response.writeHead(302, { location: '/moved' }).end());
    await expect(open(server).current('key-1')).rejects.toMatchObject({ reason: 'oidc-ci.keys' });
    expect(server.requests).toEqual([discoveryPath, keysPath]);
  });

  it('T-B06: reads no more than a key set can hold', async () => {
    const server = await serve(first.jwk);
    server.pages.set(keysPath, JSON.stringify({ keys: [first.jwk], filler: 'x'.repeat(1_000_000) }));
    await expect(open(server).current('key-1')).rejects.toMatchObject({ reason: 'oidc-ci.keys', detail: { because: 'http.too-large' } });
  });

  it('believes only a server that the authorities vouch for', async () => {
    const server = await serve(first.jwk);
    await expect(open(server, { ca: createClusterAuthority('ci-ca').ca }).current('key-1')).rejects.toMatchObject({ detail: { because: 'http.tls' } });
    await expect(openIssuerKeys(server.issuer, { discovery: true }, createTestClock()).current('key-1')).rejects.toMatchObject({ detail: { because: 'http.tls' } });
    expect(server.requests).toEqual([]);
  });

  it('stops waiting for a server that hangs', async () => {
    const server = await serve();
    server.pages.set(discoveryPath, () => undefined);
    const clock = createTestClock();
    let error: unknown;
    const asking = openIssuerKeys(server.issuer, { discovery: true, ca: server.ca }, clock).current('key-1').catch((caught: unknown) => (error = caught));
    await clock.runUntil(() => error !== undefined);
    await asking;
    expect(error).toMatchObject({ reason: 'oidc-ci.keys', detail: { because: 'http.deadline' } });
  });

  it('reads a file, and reads it again', async () => {
    const directory = await mkdtemp(path.join(tmpdir(), 'steeple-jwks-'));
    onTestFinished(() => rm(directory, { recursive: true }));
    const jwksFile = path.join(directory, 'keys.json');
    const clock = createTestClock();
    const keys = openIssuerKeys('https://ci.example', { jwksFile }, clock);
    await expect(keys.current('key-1')).rejects.toMatchObject({ kind: 'unavailable', detail: { because: 'files.missing' } });
    await writeFile(jwksFile, setOf(first.jwk), { mode: 0o644 });
    await clock.advance(10_000);
    expect(namesOf(await keys.current('key-1'))).toEqual(['key-1']);
    await writeFile(jwksFile, setOf(second.jwk));
    await clock.advance(10_000);
    expect(namesOf(await keys.current('key-1'))).toEqual(['key-2']);
    await chmod(jwksFile, 0o666);
    await expect(openIssuerKeys('https://ci.example', { jwksFile }, clock).current('key-1')).rejects.toMatchObject({ detail: { because: 'files.mode' } });
  });
});
