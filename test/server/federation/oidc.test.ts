import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../../runtime/clock.ts';
import type { HttpDocument } from '../../../runtime/http-document.ts';
import { createWatch } from '../../../runtime/watch.ts';
import { oidcPages, parseIssuer } from '../../../server/federation/oidc.ts';
import type { OidcOptions } from '../../../server/federation/oidc.ts';
import type { JwtAuthority } from '../../../spiffe/bundle.ts';
import { readJwtAuthority } from '../../../spiffe/bundle.ts';
import { createDomain } from '../../help/bundle-endpoint.ts';
import { ecPair, rsaPair } from '../../help/forge.ts';
import { refusal } from '../../spiffe/refusal.ts';

const home = createDomain('home.test', systemClock.now());
const issuer = 'https://oidc.home.test';
const discovery = '/.well-known/openid-configuration';

function authority(keyId: string, publicKey: Uint8Array, tainted = false): JwtAuthority {
  return readJwtAuthority({ keyId, publicKey, expiresAt: undefined, tainted });
}

function pages(options: Partial<OidcOptions> = {}): ReturnType<typeof oidcPages> {
  return oidcPages({ issuer, jwksUrl: undefined, domains: [], bundle: createWatch(home.bundle), maxAgeSeconds: 300, ...options });
}

function read(page: unknown): Record<string, unknown> {
  return JSON.parse(String((page as HttpDocument).body)) as Record<string, unknown>;
}

describe('parseIssuer', () => {
  it.each([
    ['https://oidc.home.test', 'accepted'],
    ['https://oidc.home.test/', 'accepted'],
    ['https://oidc.home.test:8443/a/b', 'accepted'],
    ['http://oidc.home.test', 'invalid oidc.issuer'],
    ['https://', 'invalid oidc.issuer'],
    ['https://user@oidc.home.test', 'invalid oidc.issuer'],
    ['https://oidc.home.test?x', 'invalid oidc.issuer'],
    ['https://oidc.home.test/#x', 'invalid oidc.issuer'],
    ['home.test', 'invalid oidc.issuer'],
    ['', 'invalid oidc.issuer'],
  ])('%s is %s', (text, expected) => {
    expect(refusal(() => parseIssuer(text))).toBe(expected);
  });
});

describe('the discovery document', () => {
  it('names issuer and keys, and what relying parties require', () => {
    const page = pages()(discovery, 'oidc.home.test');
    expect(read(page)).toEqual({
      issuer,
      jwks_uri: 'https://oidc.home.test/keys',
      response_types_supported: ['id_token'],
      subject_types_supported: ['public'],
      id_token_signing_alg_values_supported: ['RS256', 'ES256', 'ES384'],
      claims_supported: ['iss', 'sub', 'aud', 'exp', 'iat'],
    });
    expect(page).toMatchObject({ headers: { 'cache-control': 'public, max-age=300', 'access-control-allow-origin': '*' } });
  });

  it.each([
    ['https://oidc.home.test/', discovery, 'https://oidc.home.test/keys'],
    ['https://oidc.home.test/a/b', `/a/b${discovery}`, 'https://oidc.home.test/a/b/keys'],
    ['https://oidc.home.test:8443', discovery, 'https://oidc.home.test:8443/keys'],
  ])('is where OpenID Connect Discovery 4 looks for that of %s', (of, path, jwksUri) => {
    expect(read(pages({ issuer: of })(path, 'oidc.home.test'))).toMatchObject({ issuer: of, jwks_uri: jwksUri });
    expect(pages({ issuer: of })(new URL(jwksUri).pathname, 'oidc.home.test')).toHaveProperty('body');
  });

  it('says where the keys are if that is elsewhere', () => {
    const jwksUrl = 'https://cdn.test/home/jwks.json';
    const at = pages({ jwksUrl });
    expect(read(at(discovery, 'oidc.home.test'))).toMatchObject({ jwks_uri: jwksUrl });
    // Whoever distributes them fetches them here.
    expect(at('/keys', 'oidc.home.test')).toHaveProperty('body');
    expect(at('/home/jwks.json', 'cdn.test')).toHaveProperty('body');
  });
});

describe('a host', () => {
  it.each([
    ['oidc.home.test', true],
    ['OIDC.home.test', true],
    ['oidc.home.test:8443', true],
    ['other.home.test', true],
    ['evil.test', false],
    ['oidc.home.test.evil.test', false],
    ['evil.test/oidc.home.test', false],
    ['oidc.home.test@evil.test', false],
    ['oidc%2Ehome.test', false],
    ['', false],
    [undefined, false],
  ])('%s gets the pages: %s', (host, allowed) => {
    const at = pages({ domains: ['Other.home.test'] });
    for (const path of [discovery, '/keys']) {
      if (allowed) expect(at(path, host)).toHaveProperty('body');
      else expect(at(path, host)).toMatchObject({ status: 421 });
    }
  });

  it('never decides who the issuer is', () => {
    expect(read(pages({ domains: ['other.test'] })(discovery, 'other.test'))).toMatchObject({ issuer });
  });
});

describe('the keys', () => {
  it('are the JWT authorities alone, public, each with its algorithm and the id it has in the bundle', () => {
    const [one] = home.bundle.jwtAuthorities;
    const rsa = authority('rsa', rsaPair().spki);
    const large = authority('p384', ecPair('P-384').spki, true);
    const witAuthorities = [authority('wit', ecPair().spki)];
    const bundle = { ...home.bundle, jwtAuthorities: [one!, rsa, large], witAuthorities };
    const { keys } = read(pages({ bundle: createWatch(bundle) })('/keys', 'oidc.home.test')) as { keys: Record<string, string>[] };
    expect(keys.map(({ kid, alg, use, kty }) => ({ kid, alg, use, kty }))).toEqual([
      { kid: one!.keyId, alg: 'ES256', use: 'sig', kty: 'EC' },
      { kid: 'rsa', alg: 'RS256', use: 'sig', kty: 'RSA' },
      { kid: 'p384', alg: 'ES384', use: 'sig', kty: 'EC' },
    ]);
    expect(keys.flatMap((key) => Object.keys(key)).filter((name) => ['d', 'p', 'q', 'x5c', 'k'].includes(name))).toEqual([]);
    for (const [index, jwk] of keys.entries()) {
      const spki = createPublicKey({ key: jwk, format: 'jwk' }).export({ format: 'der', type: 'spki' });
      expect(Buffer.compare(spki, bundle.jwtAuthorities[index]!.publicKey)).toBe(0);
    }
  });

  it('follow the bundle; while there are none, nobody is told so for long', () => {
    const source = createWatch({ ...home.bundle, jwtAuthorities: [] as readonly JwtAuthority[] });
    const at = pages({ bundle: source });
    expect(at('/keys', 'oidc.home.test')).toMatchObject({ status: 503 });
    source.set(home.bundle);
    expect(read(at('/keys', 'oidc.home.test'))).toMatchObject({ keys: [{ kid: 'home.test-1' }] });
    const spki = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'der', type: 'spki' });
    source.set({ ...home.bundle, jwtAuthorities: [authority('next', spki)] });
    expect(read(at('/keys', 'oidc.home.test'))).toMatchObject({ keys: [{ kid: 'next' }] });
  });

  it.each(['/', '/keys/', '/jwks', '/.well-known/', '/bundle'])('nothing is at %s', (path) => {
    expect(pages()(path, 'oidc.home.test')).toMatchObject({ status: 404 });
  });
});
