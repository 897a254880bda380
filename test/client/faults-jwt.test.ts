/**
 * Every token of the vectors, shown to the middleware: it lets in those alone that the standards accept, refuses the others
 * as HTTP has it, and names the vectors' reason to its owner alone.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { authorizeAny } from '../../client/authorize.ts';
import { createBundleSet } from '../../client/bundle-set.ts';
import { callerMiddleware, callerOf } from '../../client/middleware.ts';
import { systemClock } from '../../runtime/clock.ts';
import { composeBundle, emptyBundle, readJwtAuthority } from '../../spiffe/bundle.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import { readAuthorities } from '../vectors/generate-authorities.ts';
import { type JwtCase, jwtVectorsBundles, jwtVectorsSecond } from '../vectors/generate-jwts.ts';

const cases = JSON.parse(readFileSync(new URL('../vectors/jwts.json', import.meta.url), 'utf8')) as readonly JwtCase[];
const authorities = readAuthorities();
const bundles = createBundleSet(
  ...Object.entries(jwtVectorsBundles).map(([trustDomain, keys]) =>
    composeBundle({
      ...emptyBundle(parseTrustDomain(trustDomain)),
      jwtAuthorities: Object.entries(keys).map(([keyId, name]) =>
        readJwtAuthority({ keyId, publicKey: Buffer.from(authorities[name].publicKey, 'base64'), expiresAt: undefined, tainted: false }),
      ),
    }),
  ),
);

interface Answered {
  readonly status: number;
  readonly challenge: string | undefined;
  readonly body: string;
  readonly reason: string;
  readonly caller: string | undefined;
}

function show(authorization: string, audience: string | readonly string[] = 'aud-1'): Answered {
  let reason = 'accept';
  const clock = { ...systemClock, now: () => jwtVectorsSecond * 1_000 };
  const middleware = callerMiddleware({ authorize: authorizeAny(), jwt: { audience, bundles }, clock, refused: (error: SpiffeError) => (reason = error.reason) });
  const headers = new Map<string, string>();
  const request = { rawHeaders: ['Host', 'x', 'Authorization', authorization], socket: null };
  const response = { statusCode: 200, body: '', setHeader: (name: string, value: string) => headers.set(name, value), end: (body: string) => (response.body = body) };
  middleware(request, response, () => undefined);
  const { statusCode: status, body } = response;
  return { status, body, reason, challenge: headers.get('www-authenticate'), caller: callerOf(request)?.spiffeId };
}

/** What no header can carry as one token never gets as far as the verifier. */
const isOneToken = (token: string): boolean => /^[\w\-.~+/]+=*$/.test(token) && token.length <= 32_768;

describe('tokens with every fault', () => {
  it.each(cases.map((row) => [row.name, row] as const))('%s', (_name, { token, verdict }) => {
    const { status, challenge, body, reason, caller } = show(`Bearer ${token}`);
    if (verdict === 'accept') {
      expect({ status, reason }).toEqual({ status: 200, reason: 'accept' });
      expect(caller).toMatch(/^spiffe:\/\//);
      return;
    }
    expect(caller).toBeUndefined();
    expect(body).not.toMatch(/spiffe|jwt-svid/);
    if (reason === 'caller.authorization') {
      expect(isOneToken(token)).toBe(false);
      expect([status, challenge]).toEqual([400, 'Bearer error="invalid_request"']);
      return;
    }
    expect(reason).toBe(verdict.replace(/^\w+ /, ''));
    expect([status, challenge]).toEqual([401, 'Bearer error="invalid_token"']);
  });
});

it('T-13: audiences are compared whole, and none is made up', () => {
  const { token } = cases.find(({ verdict }) => verdict === 'accept')!;
  for (const audience of ['AUD-1', 'aud', 'aud-1 ', ['aud-2', 'aud-11']]) expect(show(`Bearer ${token}`, audience)).toMatchObject({ status: 401, reason: 'jwt-svid.audience' });
  expect(show(`Bearer ${token}`, ['aud-2', 'aud-1'])).toMatchObject({ status: 200 });
});
