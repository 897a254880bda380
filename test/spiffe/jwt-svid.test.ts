import { sign } from 'node:crypto';
import { readFileSync } from 'node:fs';

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import type { Bundle } from '../../spiffe/bundle.ts';
import { composeBundle, emptyBundle, readJwtAuthority, taintJwtAuthority } from '../../spiffe/bundle.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { JwtSvidDraft } from '../../spiffe/jwt-svid.ts';
import { assembleJwtSvid, draftJwtSvid, maxJwtSvidBytes, parseJwtSvid, readJwtSvidUnverified, validateJwtSvid } from '../../spiffe/jwt-svid.ts';
import type { AuthorityName } from '../vectors/generate-authorities.ts';
import { privateKeyOf, readAuthorities } from '../vectors/generate-authorities.ts';
import type { JwtCase } from '../vectors/generate-jwts.ts';
import { jwtCases, jwtVectorsBundles, jwtVectorsSecond } from '../vectors/generate-jwts.ts';
import { refusal } from './refusal.ts';

const cases = JSON.parse(readFileSync(new URL('../vectors/jwts.json', import.meta.url), 'utf8')) as readonly JwtCase[];
const authorities = readAuthorities();
const now = jwtVectorsSecond * 1000;
const org = 'example.org' as TrustDomain;

function bundleOf(trustDomain: string, keys: Readonly<Record<string, AuthorityName>>): Bundle {
  return composeBundle({
    ...emptyBundle(trustDomain as TrustDomain),
    jwtAuthorities: Object.entries(keys).map(([keyId, name]) =>
      readJwtAuthority({
        keyId,
        publicKey: Buffer.from(authorities[name].publicKey, 'base64'),
        expiresAt: undefined,
        tainted: false,
      }),
    ),
  });
}

const bundles = new Map(Object.entries(jwtVectorsBundles).map(([name, keys]) => [name, bundleOf(name, keys)]));
const expected = { bundleFor: (name: TrustDomain): Bundle | undefined => bundles.get(name), audience: 'aud-1', at: now };

describe('vectors of JWT-SVIDs', () => {
  it('T-D01: is as large as it says, and made by its generator', () => {
    expect(cases.length).toBeGreaterThan(250);
    const strip = (rows: readonly JwtCase[]): string[] => rows.map(({ name, verdict }) => `${name}: ${verdict}`);
    expect(strip(cases)).toEqual(strip(jwtCases()));
    expect(new Set(strip(cases)).size).toBe(cases.length);
  });

  it.each(cases.map(({ name, verdict, token }) => [name, verdict, token] as const))('%s: %s', (_, verdict, token) => {
    expect(refusal(() => validateJwtSvid(token, expected)).replace(/^accepted$/, 'accept')).toBe(verdict);
  });

  it('T-J05: no refusal repeats anything of the token', () => {
    for (const { token } of cases) {
      const parts = token.split('.').filter((part) => part.length > 8);
      try {
        validateJwtSvid(token, expected);
      } catch (error) {
        const told = JSON.stringify([error, (error as Error).message]);
        expect(parts.filter((part) => told.includes(part))).toEqual([]);
        expect(told).not.toContain('spiffe://');
      }
    }
  });
});

const draft: JwtSvidDraft = {
  spiffeId: 'spiffe://example.org/web' as SpiffeId,
  audience: ['aud-1'],
  issuedAt: now + 999,
  expiresAt: now + 300_999,
  keyId: 'k256',
  algorithm: 'ES256',
};

function signed(input: string): string {
  const key = privateKeyOf(authorities.p256);
  return assembleJwtSvid(input, sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' }));
}

const decoded = (input: string, part: number): unknown =>
  JSON.parse(Buffer.from(input.split('.')[part] ?? '', 'base64url').toString());

describe('draftJwtSvid', () => {
  it('JWT-02: writes exactly alg, kid and typ', () => {
    expect(decoded(draftJwtSvid(draft), 0)).toEqual({ alg: 'ES256', kid: 'k256', typ: 'JWT' });
  });

  it('JWT-08 JWT-22: writes aud as an array and whole seconds', () => {
    expect(decoded(draftJwtSvid(draft), 1)).toEqual({
      sub: 'spiffe://example.org/web',
      aud: ['aud-1'],
      exp: jwtVectorsSecond + 300,
      iat: jwtVectorsSecond,
    });
  });

  it('JWT-14: writes iss and jti when they are given, and drops empty audiences', () => {
    const input = draftJwtSvid({ ...draft, audience: ['', 'a', 'b'], issuer: 'https://example.org', jti: 'j' });
    expect(decoded(input, 1)).toMatchObject({ aud: ['a', 'b'], iss: 'https://example.org', jti: 'j' });
  });

  it.each<[string, Partial<JwtSvidDraft>, string]>([
    ['no audience', { audience: [] }, 'invalid jwt-svid.audience.missing'],
    ['only empty audiences', { audience: ['', ''] }, 'invalid jwt-svid.audience.missing'],
    ['no key ID', { keyId: '' }, 'invalid jwt-svid.draft'],
    ['no lifetime', { expiresAt: now + 998 }, 'invalid jwt-svid.draft'],
    ['no instant', { expiresAt: Number.NaN }, 'invalid jwt-svid.draft'],
    ['audiences without end', { audience: ['a'.repeat(40_000)] }, 'invalid jwt-svid.too-large'],
  ])('refuses %s', (_, change, outcome) => {
    expect(refusal(() => draftJwtSvid({ ...draft, ...change }))).toBe(outcome);
  });

  it('composes what validateJwtSvid accepts', () => {
    const statement = validateJwtSvid(signed(draftJwtSvid(draft)), expected);
    expect(statement).toEqual({
      spiffeId: 'spiffe://example.org/web',
      audience: ['aud-1'],
      issuedAt: now,
      expiresAt: now + 300_000,
      claims: { sub: 'spiffe://example.org/web', aud: ['aud-1'], exp: jwtVectorsSecond + 300, iat: jwtVectorsSecond },
    });
    expect([statement, statement.claims, statement.audience].every(Object.isFrozen)).toBe(true);
  });

  it('keeps any audience as it is', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1, unit: 'binary' }), (audience) => {
        fc.pre(audience.isWellFormed());
        const token = signed(draftJwtSvid({ ...draft, audience: [audience] }));
        expect(validateJwtSvid(token, { ...expected, audience }).audience).toEqual([audience]);
      }),
      { numRuns: 50 },
    );
  });
});

describe('validateJwtSvid', () => {
  const token = signed(draftJwtSvid(draft));

  it('T-13: needs an audience to look for', () => {
    expect(refusal(() => validateJwtSvid(token, { ...expected, audience: '' }))).toBe('invalid jwt-svid.audience.missing');
  });

  it.each([
    [0, 299_999, 'accepted'],
    [0, 300_000, 'unauthenticated jwt-svid.expired'],
    [5, 304_999, 'accepted'],
    [5, 305_000, 'unauthenticated jwt-svid.expired'],
    [undefined, 359_999, 'accepted'],
    [undefined, 360_000, 'unauthenticated jwt-svid.expired'],
    [0, -1, 'unauthenticated jwt-svid.not-yet'],
    [0, 0, 'accepted'],
    [undefined, -60_000, 'accepted'],
    [undefined, -60_001, 'unauthenticated jwt-svid.not-yet'],
  ])('JWT-12: with a leeway of %s s, %d ms after issue: %s', (leewaySeconds, offset, outcome) => {
    const leeway = leewaySeconds === undefined ? {} : { leewaySeconds };
    expect(refusal(() => validateJwtSvid(token, { ...expected, ...leeway, at: now + offset }))).toBe(outcome);
  });

  it('T-03: does not take the bundle of another trust domain for it', () => {
    const other = { ...bundleOf('other.org', { k256: 'p256' }) };
    expect(refusal(() => validateJwtSvid(token, { ...expected, bundleFor: () => other }))).toBe(
      'unauthenticated jwt-svid.untrusted',
    );
  });

  it('takes tainted keys until they are removed', () => {
    const tainted = taintJwtAuthority(bundleOf(org, { k256: 'p256' }), 'k256').bundle;
    expect(validateJwtSvid(token, { ...expected, bundleFor: () => tainted }).spiffeId).toBe(draft.spiffeId);
    expect(refusal(() => validateJwtSvid(token, { ...expected, bundleFor: () => emptyBundle(org) }))).toBe(
      'unauthenticated jwt-svid.key-unknown',
    );
  });

  it('T-D01: looks no further into a token beyond its size', () => {
    for (const huge of ['.'.repeat(1_000_000), `${token}${'A'.repeat(1_000_000)}`]) {
      expect(refusal(() => validateJwtSvid(huge, expected))).toBe('invalid jwt-svid.too-large');
    }
    expect(maxJwtSvidBytes).toBeGreaterThan(2 * 2048);
  });

  it('refuses any change of any character', () => {
    fc.assert(
      fc.property(
        fc.nat(token.length - 1),
        fc.constantFrom('A', 'B', 'a', 'b', '0', '9', '-', '_', '.', '=', '+', '/', ' ', '\n'),
        (at, character) => {
          fc.pre(token[at] !== character);
          const changed = token.slice(0, at) + character + token.slice(at + 1);
          expect(refusal(() => validateJwtSvid(changed, expected))).not.toBe('accepted');
        },
      ),
      { numRuns: 1000 },
    );
  });
});

describe('parseJwtSvid', () => {
  it('tells what a token says without asking who signed it', () => {
    const token = `${draftJwtSvid({ ...draft, keyId: 'nobody' })}.AAAA`;
    expect(parseJwtSvid(token, 'internal')).toEqual({
      spiffeId: draft.spiffeId,
      token,
      audience: ['aud-1'],
      issuedAt: now,
      expiresAt: now + 300_000,
      hint: 'internal',
    });
  });

  it.each([
    ['', 'invalid jwt-svid.form'],
    ['a.b.c', 'invalid jwt-svid.encoding'],
  ])('refuses %j', (token, outcome) => {
    expect(refusal(() => parseJwtSvid(token))).toBe(outcome);
  });
});

describe('several audiences', () => {
  const token = (): string => {
    const [good] = cases.filter(({ verdict }) => verdict === 'accept');
    return good!.token;
  };

  it('JWT-09: one of those that the validator goes by is enough', () => {
    expect(validateJwtSvid(token(), { ...expected, audience: ['other', 'aud-1'] }).audience).toContain('aud-1');
    expect(refusal(() => validateJwtSvid(token(), { ...expected, audience: ['other', 'another'] }))).toBe('unauthenticated jwt-svid.audience');
  });

  it.each([[[]], [['']], [['aud-1', '']]])('refuses %j as what it goes by', (audience) => {
    expect(refusal(() => validateJwtSvid(token(), { ...expected, audience }))).toBe('invalid jwt-svid.audience.missing');
  });
});

describe('readJwtSvidUnverified', () => {
  it('tells all claims of a token that nobody signed and that is over', () => {
    const token = `${draftJwtSvid({ ...draft, keyId: 'nobody', jti: 'one' })}.AAAA`;
    expect(readJwtSvidUnverified(token)).toMatchObject({ spiffeId: draft.spiffeId, audience: ['aud-1'], claims: { jti: 'one', sub: draft.spiffeId } });
    expect(refusal(() => readJwtSvidUnverified('a.b.c'))).toBe('invalid jwt-svid.encoding');
  });
});
