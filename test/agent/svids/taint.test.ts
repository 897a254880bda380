import { expect, it } from 'vitest';
import { nothingTainted, sameTaint, taintedBy } from '../../../agent/svids/taint.ts';
import type { AuthorityNotice, AuthorityState } from '../../../agent/sync/holdings.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { testAuthority, trustDomain } from '../../help/agent-server.ts';
import { ecPair } from '../../help/forge.ts';

const [one, two] = [testAuthority('one'), testAuthority('two')];
const notice = (kind: 'x509' | 'jwt', id: string, state: AuthorityState): AuthorityNotice => ({ kind, id, state, expiresAt: 1 });

it.each([
  ['prepared', false],
  ['active', false],
  ['old', false],
  ['tainted', true],
  ['revoked', true],
] as const)('an authority that is announced as %s: %s', (state, counts) => {
  const found = taintedBy(undefined, [notice('x509', 'aa', state), notice('jwt', 'k', state)]);
  expect([[...found.x509], [...found.jwt]]).toEqual(counts ? [['aa'], ['k']] : [[], []]);
});

it('what the bundle marks counts too, by subject key id and key id', () => {
  const bundle = composeBundle({
    ...emptyBundle(trustDomain),
    x509Authorities: [{ certificate: one.certificate, tainted: true }, { certificate: two.certificate, tainted: false }],
    jwtAuthorities: [{ keyId: 'bad', publicKey: ecPair().spki, expiresAt: undefined, tainted: true }, { keyId: 'good', publicKey: ecPair().spki, expiresAt: undefined, tainted: false }],
  });
  expect(taintedBy(bundle, [])).toEqual({ x509: new Set([one.id]), jwt: new Set(['bad']) });
  // One space of key ids for both kinds of token.
  const witAuthorities = [{ keyId: 'bad-wit', publicKey: ecPair().spki, expiresAt: undefined, tainted: true }];
  expect(taintedBy({ ...bundle, witAuthorities }, []).jwt).toEqual(new Set(['bad', 'bad-wit']));
  expect(taintedBy(bundle, [notice('x509', two.id, 'revoked')]).x509).toEqual(new Set([one.id, two.id]));
});

it('is the same by content', () => {
  const found = taintedBy(undefined, [notice('x509', 'aa', 'tainted')]);
  expect([sameTaint(found, taintedBy(undefined, [notice('x509', 'aa', 'revoked')])), sameTaint(found, nothingTainted), sameTaint(found, taintedBy(undefined, [notice('jwt', 'aa', 'tainted')]))]).toEqual([true, false, false]);
});
