import { readFileSync } from 'node:fs';

import { describe, expect, it } from 'vitest';

import type { Bundle } from '../../spiffe/bundle.ts';
import { composeBundle, emptyBundle, readJwtAuthority } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { parseSpiffeId } from '../../spiffe/id.ts';
import { validateJwtSvid } from '../../spiffe/jwt-svid.ts';
import { signJwtText } from '../../spiffe/jwt-key.ts';
import { composeWitProof, validateWitProof, type RememberedProof, type WitPresented, type WitProofExpectation } from '../../spiffe/wit-proof.ts';
import { assembleWitSvid, draftWitSvid, type WitSvid } from '../../spiffe/wit-svid.ts';
import type { AuthorityName } from '../vectors/generate-authorities.ts';
import { privateKeyOf, publicKeyOf, readAuthorities } from '../vectors/generate-authorities.ts';
import type { WitCase } from '../vectors/generate-wits.ts';
import { witCases, witVectorsAudience, witVectorsBundles, witVectorsJwtAuthority, witVectorsSecond } from '../vectors/generate-wits.ts';
import { refusal } from './refusal.ts';

const cases = JSON.parse(readFileSync(new URL('../vectors/wits.json', import.meta.url), 'utf8')) as readonly WitCase[];
const authorities = readAuthorities();
const now = witVectorsSecond * 1000;

const authority = (keyId: string, name: AuthorityName) =>
  readJwtAuthority({ keyId, publicKey: Buffer.from(authorities[name].publicKey, 'base64'), expiresAt: undefined, tainted: false });

const bundles = new Map<string, Bundle>(
  Object.entries(witVectorsBundles).map(([name, keys]) => [
    name,
    composeBundle({
      ...emptyBundle(name as TrustDomain),
      jwtAuthorities: name === 'example.org' ? [authority(witVectorsJwtAuthority.keyId, witVectorsJwtAuthority.key)] : [],
      witAuthorities: Object.entries(keys).map(([keyId, key]) => authority(keyId, key)),
    }),
  ]),
);
const expected: WitProofExpectation = { bundleFor: (name) => bundles.get(name), audience: [witVectorsAudience], at: now };

describe('vectors of WIT-SVIDs with proof of possession', () => {
  it('is as large as it says, and made by its generator', () => {
    expect(cases.length).toBeGreaterThan(190);
    const strip = (rows: readonly WitCase[]): string[] => rows.map(({ name, verdict }) => `${name}: ${verdict}`);
    expect(strip(cases)).toEqual(strip(witCases()));
    expect(new Set(strip(cases)).size).toBe(cases.length);
  });

  it.each(cases.map((row) => [row.name, row.verdict, row] as const))('%s: %s', (_, verdict, row) => {
    expect(refusal(() => validateWitProof(row, expected)).replace(/^accepted$/, 'accept')).toBe(verdict);
  });

  it('T-12: no WIT-SVID is a JWT-SVID', () => {
    const withJwtKeys = (name: TrustDomain): Bundle | undefined => {
      const bundle = bundles.get(name);
      return bundle === undefined ? undefined : composeBundle({ ...bundle, jwtAuthorities: bundle.witAuthorities, witAuthorities: [] });
    };
    for (const { token } of cases) {
      expect(refusal(() => validateJwtSvid(token, { bundleFor: withJwtKeys, audience: 'a', at: now }))).toMatch(/^invalid jwt-svid/);
    }
  });

  it('T-J05: no refusal repeats anything of token or proof', () => {
    for (const row of cases) {
      const parts = `${row.token}.${row.proof}`.split('.').filter((part) => part.length > 8);
      try {
        validateWitProof(row, expected);
      } catch (error) {
        const told = JSON.stringify([error, (error as Error).message]);
        expect(parts.filter((part) => told.includes(part))).toEqual([]);
        expect(told).not.toContain('spiffe://');
      }
    }
  });
});

const id = parseSpiffeId('spiffe://example.org/web');

function issued(holder: AuthorityName = 'p384', change: Partial<Parameters<typeof draftWitSvid>[0]> = {}): WitSvid {
  const algorithm = holder === 'p384' ? 'ES384' : 'ES256';
  const input = draftWitSvid({
    spiffeId: id,
    confirmation: { key: publicKeyOf(authorities[holder]), algorithm },
    notBeforeAt: now - 10_000,
    issuedAt: now,
    expiresAt: now + 3_600_000,
    keyId: 'k256',
    algorithm: 'ES256',
    jti: 'wit-1',
    ...change,
  });
  const token = assembleWitSvid(input, signJwtText('ES256', privateKeyOf(authorities.p256), input));
  return { spiffeId: id, token, privateKey: privateKeyOf(authorities[holder]), algorithm, expiresAt: now + 3_600_000, issuedAt: now, hint: '' };
}

function presented(svid: WitSvid, change: Partial<Parameters<typeof composeWitProof>[0]> = {}): WitPresented {
  return { token: svid.token, proof: composeWitProof({ svid, audience: witVectorsAudience, at: now, jti: 'one', ...change }) };
}

const claimsOf = (token: string): Record<string, unknown> =>
  JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as Record<string, unknown>;

describe('composeWitProof', () => {
  it('WIT-38: says what is asked for and nothing else', () => {
    const { token, proof } = presented(issued());
    expect(JSON.parse(Buffer.from(proof.split('.')[0] ?? '', 'base64url').toString())).toEqual({ alg: 'ES384', typ: 'wpt+jwt' });
    const { wth, ...claims } = claimsOf(proof);
    expect(claims).toEqual({ aud: witVectorsAudience, exp: witVectorsSecond + 30, jti: 'one' });
    expect(wth).toHaveLength(43);
    expect(validateWitProof({ token, proof }, expected)).toMatchObject({ spiffeId: id, expiresAt: now + 3_600_000, issuedAt: now });
  });

  it('WIT-36: is never good for longer than its token', () => {
    const svid = issued('p384', { expiresAt: now + 5_000 });
    const { proof } = presented({ ...svid, expiresAt: now + 5_000 }, { lifeSeconds: 100 });
    expect(claimsOf(proof)['exp']).toBe(witVectorsSecond + 5);
    expect(refusal(() => presented({ ...svid, expiresAt: now }))).toBe('unauthenticated wit-svid.expired');
  });

  it('WIT-38: covers a transaction token', () => {
    const svid = issued();
    const both = { ...presented(svid, { transactionToken: 'txn' }), transactionToken: 'txn' };
    expect(refusal(() => validateWitProof(both, expected))).toBe('accepted');
    expect(refusal(() => validateWitProof({ ...both, transactionToken: 'txm' }, expected))).toBe('unauthenticated wit-proof.context');
  });

  it.each<[string, Partial<Parameters<typeof composeWitProof>[0]>]>([
    ['no target', { audience: '' }],
    ['a query', { audience: 'https://a/b?c' }],
    ['a fragment', { audience: 'https://a/b#c' }],
    ['no identifier', { jti: '' }],
    ['no life', { lifeSeconds: 0 }],
    ['a life that is no number', { lifeSeconds: Number.NaN }],
  ])('WIT-38: refuses %s', (_, change) => {
    expect(refusal(() => presented(issued(), change))).toBe('invalid wit-proof.draft');
  });
});

describe('validateWitProof', () => {
  it('WIT-29: tells of a proof once all else holds, and refuses one that is known', () => {
    const told: RememberedProof[] = [];
    const remember = (proof: RememberedProof): boolean => told.push(proof) === 1;
    const both = presented(issued());
    expect(refusal(() => validateWitProof(both, { ...expected, audience: ['https://other'], remember }))).toBe('unauthenticated wit-proof.audience');
    expect(told).toEqual([]);
    expect(refusal(() => validateWitProof(both, { ...expected, remember }))).toBe('accepted');
    expect(refusal(() => validateWitProof(both, { ...expected, remember }))).toBe('unauthenticated wit-proof.replayed');
    expect(told[0]).toEqual({ key: 'spiffe://example.org/web one', until: now + 90_000 });
  });

  it('WIT-18: refuses a life that is longer than is accepted', () => {
    const long = presented(issued());
    expect(refusal(() => validateWitProof(long, { ...expected, longestLifeSeconds: 3609 }))).toBe('unauthenticated wit-svid.life');
    expect(refusal(() => validateWitProof(long, { ...expected, longestLifeSeconds: 3610 }))).toBe('accepted');
  });

  it('T-11: takes no bundle of another name', () => {
    const wrong = (): Bundle => composeBundle({ ...(bundles.get('example.org') as Bundle), trustDomain: 'other.org' as TrustDomain });
    expect(refusal(() => validateWitProof(presented(issued()), { ...expected, bundleFor: wrong }))).toBe('unauthenticated wit-svid.untrusted');
  });

  it('yields the claims as they were written', () => {
    const { claims, spiffeId } = validateWitProof(presented(issued()), expected);
    expect([spiffeId, claims['jti'], claims['aud'], claims['iss']]).toEqual([id, 'wit-1', undefined, undefined]);
  });
});
