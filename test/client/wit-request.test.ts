import { describe, expect, it } from 'vitest';
import * as library from '../../client/index.ts';
import { authorizeAny, authorizeId, createBundleSet, createWitVerifier, SpiffeError, witHeaders, type WitHttpRequest, witRefusal, type WitVerifierOptions } from '../../client/index.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import { createTestClock } from '../help/clock.ts';
import { refusal } from '../spiffe/refusal.ts';

const home = createFakeAuthority('example.org');
const other = createFakeAuthority('other.test');
const bundles = createBundleSet(home.bundle, other.bundle);
const svid = home.witSvid('/web');
const origin = 'https://orders.example.org';
const url = `${origin}/orders?limit=5`;
const verifierWith = (options: Partial<WitVerifierOptions> = {}) => createWitVerifier({ bundles, origin, authorize: authorizeAny(), ...options });

/** As `node:http` has it. */
function received(headers: object, path = '/orders?limit=5'): WitHttpRequest {
  return { rawHeaders: Object.entries(headers).flatMap(([name, value]) => [value].flat().flatMap((one: string) => [name, one])), url: path };
}

describe('a request with a WIT-SVID', () => {
  it('WIT-25 WIT-36 WIT-39: has the token in a header of its own, and the proof in Authorization', () => {
    const headers = witHeaders(svid, url);
    expect(headers['workload-identity-token']).toBe(svid.token);
    expect(headers.authorization).toMatch(/^WPT ey/);
    expect(headers.authorization).not.toContain(svid.token);
    expect(verifierWith().verify(received(headers))).toMatchObject({ spiffeId: 'spiffe://example.org/web' });
  });

  it('WIT-29: counts once', () => {
    const verifier = verifierWith();
    const request = received(witHeaders(svid, url));
    verifier.verify(request);
    expect(refusal(() => verifier.verify(request))).toBe('unauthenticated wit-proof.replayed');
    expect(refusal(() => verifier.verify(received(witHeaders(svid, url))))).toBe('accepted');
    expect(refusal(() => verifierWith({ remembered: 0 }).verify(request))).toBe('accepted');
  });

  it('WIT-28 WIT-40: counts for this service and this path alone, whatever Host says', () => {
    const headers = { ...witHeaders(svid, url), host: 'evil.example' };
    const audience = 'unauthenticated wit-proof.audience';
    expect(refusal(() => verifierWith().verify(received(headers, '/admin')))).toBe(audience);
    expect(refusal(() => verifierWith().verify(received(headers, '/orders/')))).toBe(audience);
    expect(refusal(() => verifierWith({ origin: 'https://evil.example' }).verify(received(headers)))).toBe(audience);
    expect(refusal(() => verifierWith({ origin: ['https://a.example', origin] }).verify(received(headers)))).toBe('accepted');
  });

  it.each<[string, string, string]>([
    ['no path', origin, '/'],
    ['a fragment', `${origin}/a#b`, '/a'],
    ['dots', `${origin}/a/../b`, '/b'],
    ['the usual port', 'https://orders.example.org:443/a', '/a'],
    ['an absolute target', `${origin}/a`, 'https://whatever.example/a?b'],
    ['an absolute target without a path', origin, 'http://whatever.example'],
    ['two slashes', `${origin}//a`, '//a'],
    ['escapes', `${origin}/a%20b/%2F`, '/a%20b/%2F'],
  ])('WIT-38: with %s', (_, target, path) => {
    expect(refusal(() => verifierWith().verify(received(witHeaders(svid, target), path)))).toBe('accepted');
  });

  it('is read as Express and the Fetch API have it', () => {
    const headers = witHeaders(svid, url);
    const express = { ...received(headers, '/'), originalUrl: '/orders' };
    expect(verifierWith().verify(express).spiffeId).toBe(svid.spiffeId);
    expect(verifierWith().verify(new Request(url, { headers })).spiffeId).toBe(svid.spiffeId);
    expect(refusal(() => verifierWith().verify(received({ ...headers, authorization: headers.authorization.replace('WPT', 'wpt') })))).toBe('accepted');
  });

  const missing = 'unauthenticated wit-request.missing';
  const twice = 'invalid wit-request.header';
  it.each<[string, (good: { 'workload-identity-token': string; authorization: string }) => object, string]>([
    ['nothing', () => ({}), missing],
    ['WIT-24 T-15 the token alone', (good) => ({ 'workload-identity-token': good['workload-identity-token'] }), missing],
    ['the proof alone', (good) => ({ authorization: good.authorization }), missing],
    ['WIT-25 T-15 the token as a bearer', () => ({ authorization: `Bearer ${svid.token}` }), missing],
    ['WIT-25 T-15 the token in both places', () => ({ 'workload-identity-token': svid.token, authorization: `WPT ${svid.token}` }), 'invalid wit-proof.typ'],
    ['WIT-40 another scheme', (good) => ({ ...good, authorization: good.authorization.replace('WPT', 'DPoP') }), missing],
    ['WIT-40 two proofs', (good) => ({ ...good, authorization: [good.authorization, good.authorization] }), twice],
    ['WIT-40 two proofs in one field', (good) => ({ ...good, authorization: `${good.authorization}, ${good.authorization}` }), missing],
    ['two tokens', (good) => ({ ...good, 'workload-identity-token': [svid.token, svid.token] }), twice],
    ['WIT-39 the proof in the header of earlier drafts', (good) => ({ 'workload-identity-token': svid.token, 'workload-proof-token': good.authorization.slice(4) }), missing],
    ['WIT-38 a transaction token that is not covered', (good) => ({ ...good, 'txn-token': 'txn' }), 'unauthenticated wit-proof.context'],
    ['a token of nobody known', () => witHeaders(createFakeAuthority('strange.test').witSvid('/web'), url), 'unauthenticated wit-svid.untrusted'],
    ['T-11 a token of another trust domain for one of ours', () => witHeaders(other.witSvid('spiffe://example.org/web'), url), 'unauthenticated wit-svid.key-unknown'],
    ["WIT-24 another workload's token with one's own proof", () => ({ ...witHeaders(home.witSvid('/db'), url), 'workload-identity-token': svid.token }), 'unauthenticated wit-proof.signature'],
  ])('refuses %s', (_, headers, verdict) => {
    expect(refusal(() => verifierWith().verify(received(headers(witHeaders(svid, url)))))).toBe(verdict);
  });

  it('WIT-38: covers a transaction token', () => {
    const headers = { ...witHeaders(svid, url, { transactionToken: 'txn' }), 'txn-token': 'txn' };
    expect(refusal(() => verifierWith().verify(received(headers)))).toBe('accepted');
    expect(refusal(() => verifierWith().verify(received({ ...headers, 'txn-token': 'other' })))).toBe('unauthenticated wit-proof.context');
  });

  it('T-11 BUNDLE-18: counts no longer than its authority and itself, however often it was seen', async () => {
    const strange = createFakeAuthority('example.org');
    const set = createBundleSet(home.bundle);
    const clock = createTestClock();
    await clock.advance(Date.now() - clock.now());
    const verifier = verifierWith({ bundles: set, clock });
    const ask = (from = svid): string => refusal(() => verifier.verify(received(witHeaders(from, url, { at: Math.min(clock.now(), from.expiresAt - 1) }))));
    expect([ask(), ask()]).toEqual(['accepted', 'accepted']);
    // The same key, told again, and another key under the same name.
    const authorities = home.bundle.witAuthorities.map((authority) => ({ ...authority }));
    set.set({ ...home.bundle, witAuthorities: authorities });
    expect(ask()).toBe('accepted');
    const [other] = strange.bundle.witAuthorities;
    set.set({ ...home.bundle, witAuthorities: authorities.map(({ keyId }) => ({ ...other!, keyId })) });
    expect(ask()).toBe('unauthenticated wit-svid.signature');
    set.set({ ...home.bundle, witAuthorities: [] });
    expect(ask()).toBe('unauthenticated wit-svid.key-unknown');
    set.delete(home.trustDomain);
    expect(ask()).toBe('unauthenticated wit-svid.untrusted');
    set.set(home.bundle);
    expect(ask()).toBe('accepted');
    await clock.advance(svid.expiresAt + 60_000 - clock.now());
    expect(ask()).toBe('unauthenticated wit-svid.expired');
  });

  it('is refused for who makes it, after all else', () => {
    const verifier = verifierWith({ authorize: authorizeId(home.witSvid('/db').spiffeId) });
    expect(refusal(() => verifier.verify(received(witHeaders(svid, url))))).toBe('denied source.peer.refused');
  });

  it('WIT-27: ends with its proof, and the memory of proofs is bounded without forgetting any that counts', async () => {
    const clock = createTestClock();
    const at = Date.now();
    await clock.advance(at - clock.now());
    const verifier = verifierWith({ clock, remembered: 2, leewaySeconds: 1 });
    const one = received(witHeaders(svid, url, { at, lifeSeconds: 2 }));
    verifier.verify(one);
    verifier.verify(received(witHeaders(svid, url, { at, lifeSeconds: 20 })));
    expect(refusal(() => verifier.verify(received(witHeaders(svid, url, { at }))))).toBe('limited wit-request.remembered');
    await clock.advance(4_000);
    expect(refusal(() => verifier.verify(one))).toBe('unauthenticated wit-proof.expired');
    expect(refusal(() => verifier.verify(received(witHeaders(svid, url, { at, lifeSeconds: 20 }))))).toBe('accepted');
  });
});

describe('what cannot be presented or verified', () => {
  it.each(['http://orders.example.org/', 'orders.example.org', '', 'ftp://a/b'])('WIT-30: %s is no target', (target) => {
    expect(refusal(() => witHeaders(svid, target))).toBe('invalid wit-request.target');
  });

  it.each([[], '', 'http://a', 'https://a/b', 'https://a?b', 'orders'])('%j is no origin', (wrong) => {
    expect(refusal(() => verifierWith({ origin: wrong }))).toBe('invalid wit-request.origin');
  });

  it('WIT-36: a WIT-SVID that ended', () => {
    expect(refusal(() => witHeaders(svid, url, { at: svid.expiresAt }))).toBe('unauthenticated wit-svid.expired');
  });
});

describe('witRefusal', () => {
  const error = (kind: SpiffeError['kind'], reason: string): SpiffeError => new SpiffeError(kind, reason, 'no');
  it.each<[string, unknown, number, string | undefined]>([
    ['WIT-37 a WIT-SVID that does not hold', error('unauthenticated', 'wit-svid.expired'), 400, undefined],
    ['WIT-37 a WIT-SVID that cannot be read', error('invalid', 'jws.form'), 400, undefined],
    ['a header twice', error('invalid', 'wit-request.header'), 400, undefined],
    ['WIT-40 a proof that does not hold', error('unauthenticated', 'wit-proof.replayed'), 401, 'WPT'],
    ['WIT-40 none at all', error('unauthenticated', 'wit-request.missing'), 401, 'WPT'],
    ['somebody else', error('denied', 'source.peer.refused'), 403, undefined],
    ['too many', error('limited', 'wit-request.remembered'), 503, undefined],
    ['anything', new TypeError('x'), 500, undefined],
  ])('%s', (_, caught, status, challenge) => {
    expect([witRefusal(caught).status, witRefusal(caught).headers['www-authenticate']]).toEqual([status, challenge]);
  });
});

it('WIT-24 T-15: the library has no way from a WIT-SVID alone to a name', () => {
  const about = Object.keys(library).filter((name) => /Wit|^wit[A-Z]/.test(name));
  expect(about.toSorted()).toEqual(['WitSource', 'createWitVerifier', 'witHeaders', 'witRefusal']);
});
