import { describe, expect, it } from 'vitest';
import { createBundleSet } from '../../client/bundle-set.ts';
import { parseJwtSvidInsecure, validateJwtSvid } from '../../client/jwt-svid.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';

const home = createFakeAuthority('example.org');
const other = createFakeAuthority('other.test');
const bundles = createBundleSet(home.bundle, other.bundle);

describe('a token of somebody else', () => {
  it('counts by the bundle of its trust domain', () => {
    const { token } = home.jwtSvid('/web', ['db', 'cache']);
    expect(validateJwtSvid(token, { audience: 'db', bundles })).toMatchObject({ spiffeId: 'spiffe://example.org/web', audience: ['db', 'cache'] });
    expect(validateJwtSvid(token, { audience: ['x', 'cache'], bundles }).claims).toMatchObject({ sub: 'spiffe://example.org/web' });
  });

  it.each([
    ['of another audience', home.jwtSvid('/web', 'cache').token, 'jwt-svid.audience'],
    ['that is over', home.jwtSvid('/web', 'db', { ttlSeconds: -120 }).token, 'jwt-svid.expired'],
    ['of a trust domain that is not held', createFakeAuthority('third.test').jwtSvid('/web', 'db').token, 'jwt-svid.untrusted'],
    ['signed by another trust domain', other.jwtSvid('spiffe://example.org/web', 'db').token, 'jwt-svid.key-unknown'],
    ['that was changed', home.jwtSvid('/web', 'db').token.replace(/\.[^.]+$/, `.${'A'.repeat(86)}`), 'jwt-svid.signature'],
    ['that is none', 'x', 'jwt-svid.form'],
  ])('%s is refused', (_what, token, reason) => {
    expect(() => validateJwtSvid(token, { audience: 'db', bundles })).toThrow(expect.objectContaining({ reason }));
  });

  it('is forgiven as much time as is said', () => {
    const { token } = home.jwtSvid('/web', 'db', { ttlSeconds: -20 });
    expect(validateJwtSvid(token, { audience: 'db', bundles }).spiffeId).toBe('spiffe://example.org/web');
    expect(() => validateJwtSvid(token, { audience: 'db', bundles, leewaySeconds: 5 })).toThrow(expect.objectContaining({ reason: 'jwt-svid.expired' }));
    expect(() => validateJwtSvid(token, { audience: 'db', bundles, at: Date.now() + 50_000 })).toThrow(expect.objectContaining({ reason: 'jwt-svid.expired' }));
  });

  it('can be read without being believed', () => {
    const forged = createFakeAuthority('third.test').jwtSvid('/web', 'db', { ttlSeconds: -120 });
    expect(parseJwtSvidInsecure(forged.token).spiffeId).toBe('spiffe://third.test/web');
  });
});
