import { describe, expect, it } from 'vitest';

import type { Bundle, BundleStep, JwtAuthority, X509Authority } from '../../spiffe/bundle.ts';
import {
  appendAuthorities,
  bundleContentEquals,
  bundleEquals,
  composeBundle,
  emptyBundle,
  mergeBundle,
  pruneBundle,
  readJwtAuthority,
  readX509Authority,
  removeJwtAuthority,
  removeX509Authority,
  taintJwtAuthority,
  taintX509Authority,
  x509AuthorityExpiresAt,
} from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { AuthorityName } from '../vectors/generate-authorities.ts';
import { certificateOf, readAuthorities } from '../vectors/generate-authorities.ts';
import { refusal } from './refusal.ts';

const authorities = readAuthorities();
const td = 'example.org' as TrustDomain;
const spki = (name: AuthorityName): Uint8Array => Buffer.from(authorities[name].publicKey, 'base64');

// Read anew each time, as they come from a file or a message, so that nothing can compare by identity.
const x509 = (name: AuthorityName, tainted = false): X509Authority =>
  readX509Authority(certificateOf(authorities[name]), tainted);
const jwt = (keyId: string, name: AuthorityName = 'p256', change: Partial<JwtAuthority> = {}): JwtAuthority =>
  readJwtAuthority({ keyId, publicKey: spki(name), expiresAt: undefined, tainted: false, ...change });

function bundle(x509Authorities: X509Authority[], jwtAuthorities: JwtAuthority[] = [], sequence = 5n): Bundle {
  return composeBundle({ trustDomain: td, x509Authorities, jwtAuthorities, refreshHintSeconds: 60, sequence });
}

const summary = ({ bundle: b, changed }: BundleStep): unknown => ({
  x509: b.x509Authorities.map((a) =>
    Object.values(authorities).findIndex((known) => known.certificate === Buffer.from(a.certificate).toString('base64')),
  ),
  jwt: b.jwtAuthorities.map((a) => a.keyId),
  sequence: b.sequence,
  changed,
});
const place = (name: AuthorityName): number => Object.keys(authorities).indexOf(name);

describe('reading authorities', () => {
  const certificate = certificateOf(authorities.p256);
  it.each<[string, Uint8Array]>([
    ['nothing', new Uint8Array()],
    ['PEM', Buffer.from(`-----BEGIN CERTIFICATE-----\n${authorities.p256.certificate ?? ''}\n-----END CERTIFICATE-----\n`)],
    ['two in one', Buffer.concat([certificate, certificate])],
    ['a byte behind', Buffer.concat([certificate, Buffer.of(0)])],
    ['a cut one', certificate.subarray(0, -1)],
    ['a public key', spki('p256')],
  ])('refuses %s as a certificate', (_, bytes) => {
    expect(refusal(() => readX509Authority(bytes))).toBe('invalid bundle.x509-authority.malformed');
  });

  it.each<[string, Partial<JwtAuthority>, string]>([
    ['no key ID', { keyId: '' }, 'invalid bundle.jwt-authority.key-id'],
    ['a long key ID', { keyId: 'é'.repeat(513) }, 'invalid bundle.jwt-authority.key-id'],
    ['no key', { publicKey: new Uint8Array() }, 'invalid jwt-key.malformed'],
    ['a certificate', { publicKey: certificate }, 'invalid jwt-key.malformed'],
    ['a byte behind', { publicKey: Buffer.concat([spki('p256'), Buffer.of(0)]) }, 'invalid jwt-key.malformed'],
    ['T-14 Ed25519', { publicKey: spki('ed25519') }, 'unsupported jwt-key.unsupported'],
    ['secp256k1', { publicKey: spki('secp256k1') }, 'unsupported jwt-key.unsupported'],
    ['RSA of 1024 bits', { publicKey: spki('rsa1024') }, 'unsupported jwt-key.unsupported'],
    ['the longest key ID', { keyId: 'é'.repeat(512) }, 'accepted'],
    ['P-384', { publicKey: spki('p384') }, 'accepted'],
    ['P-521', { publicKey: spki('p521') }, 'accepted'],
    ['RSA of 4096 bits', { publicKey: spki('rsa4096') }, 'accepted'],
  ])('a JWT authority with %s: %s', (_, change, outcome) => {
    expect(refusal(() => jwt('k', 'p256', change))).toBe(outcome);
  });

  it('tells when a certificate ends', () => {
    expect([x509AuthorityExpiresAt(x509('p256-expired')), x509AuthorityExpiresAt(x509('p256'))]).toEqual([
      Date.UTC(2001, 0, 1),
      Date.UTC(2099, 0, 1),
    ]);
  });
});

describe('steps', () => {
  it('adds what is missing, in order, and counts one change', () => {
    const step = appendAuthorities(bundle([x509('p256')], [jwt('a')]), {
      x509Authorities: [x509('p384'), x509('p256'), x509('p384')],
      jwtAuthorities: [jwt('b', 'p384'), jwt('a')],
    });
    expect(summary(step)).toEqual({ x509: [place('p256'), place('p384')], jwt: ['a', 'b'], sequence: 6n, changed: true });
    expect([step.bundle, step.bundle.x509Authorities, step.bundle.jwtAuthorities].every(Object.isFrozen)).toBe(true);
  });

  it('changes nothing, marks included, when nothing is missing', () => {
    const before = bundle([x509('p256', true)], [jwt('a', 'p256', { expiresAt: 5, tainted: true })]);
    const step = appendAuthorities(before, { x509Authorities: [x509('p256')], jwtAuthorities: [jwt('a')] });
    expect(step).toEqual({ bundle: before, changed: false });
    expect(step.bundle).toBe(before);
  });

  it('WIT-32: refuses the key ID of another key', () => {
    const step = (): unknown =>
      appendAuthorities(bundle([], [jwt('a')]), { x509Authorities: [], jwtAuthorities: [jwt('a', 'p384')] });
    expect(refusal(step)).toBe('invalid bundle.jwt-authority.key-id-taken');
    expect(refusal(() => bundle([], [jwt('a'), jwt('a', 'p384')]))).toBe('invalid bundle.jwt-authority.key-id-taken');
  });

  it('WIT-32: has one space of key IDs for both kinds of token', () => {
    const step = appendAuthorities(bundle([], [jwt('a')]), { x509Authorities: [], jwtAuthorities: [], witAuthorities: [jwt('w', 'p384')] });
    expect([step.changed, step.bundle.witAuthorities.map(({ keyId }) => keyId)]).toEqual([true, ['w']]);
    const adds = (change: Partial<Bundle>) => () => appendAuthorities(step.bundle, { x509Authorities: [], jwtAuthorities: [], ...change });
    const taken = 'invalid bundle.jwt-authority.key-id-taken';
    expect(refusal(adds({ witAuthorities: [jwt('a')] }))).toBe(taken);
    expect(refusal(adds({ witAuthorities: [jwt('a', 'p384')] }))).toBe(taken);
    expect(refusal(adds({ jwtAuthorities: [jwt('w', 'p384')] }))).toBe(taken);
    expect(refusal(adds({ witAuthorities: [jwt('w')] }))).toBe(taken);
    expect(adds({ witAuthorities: [jwt('w', 'p384')] })().changed).toBe(false);
    expect(refusal(() => composeBundle({ ...bundle([], [jwt('a')]), witAuthorities: [jwt('a')] }))).toBe(taken);
  });

  it('marks, prunes and takes out WIT authorities as JWT authorities', () => {
    const before = composeBundle({ ...bundle([], [jwt('a')]), witAuthorities: [jwt('w', 'p384', { expiresAt: 5 }), jwt('v')] });
    expect(taintJwtAuthority(before, 'w').bundle.witAuthorities.map((a) => a.tainted)).toEqual([true, false]);
    expect(taintJwtAuthority(taintJwtAuthority(before, 'w').bundle, 'w').changed).toBe(false);
    expect(removeJwtAuthority(before, 'v').bundle.witAuthorities.map((a) => a.keyId)).toEqual(['w']);
    expect([pruneBundle(before, 5).changed, pruneBundle(before, 6).bundle.witAuthorities.map((a) => a.keyId)]).toEqual([false, ['v']]);
    expect(mergeBundle(bundle([], [jwt('a')]), before).bundle.witAuthorities).toEqual(before.witAuthorities);
    expect(bundleContentEquals(before, composeBundle({ ...before, witAuthorities: [] }))).toBe(false);
  });

  it('FED-07: merges bundles of one trust domain only', () => {
    const other = composeBundle({ ...bundle([x509('p256-foreign')]), trustDomain: 'other.org' as TrustDomain });
    expect(refusal(() => mergeBundle(bundle([]), other))).toBe('invalid bundle.trust-domain.mixed');
    expect(summary(mergeBundle(bundle([x509('p256')]), bundle([x509('p384')], [jwt('a')], 99n)))).toEqual({
      x509: [place('p256'), place('p384')],
      jwt: ['a'],
      sequence: 6n,
      changed: true,
    });
  });

  it.each([
    [Date.UTC(2001, 0, 1), ['a', 'b', 'c'], 2, false],
    [Date.UTC(2001, 0, 1) + 1, ['b', 'c'], 1, true],
    [Date.UTC(2050, 0, 1), ['b', 'c'], 1, true],
    [Date.UTC(2050, 0, 1) + 1, ['b'], 1, true],
    [Date.UTC(2099, 0, 1) + 1, ['b'], 0, true],
  ])('prunes what expired before %d', (before, keyIds, certificates, changed) => {
    const full = bundle(
      [x509('p256-expired'), x509('p256')],
      [jwt('a', 'p256', { expiresAt: Date.UTC(2001, 0, 1) }), jwt('b'), jwt('c', 'p256', { expiresAt: Date.UTC(2050, 0, 1) })],
    );
    const step = pruneBundle(full, before);
    expect([
      step.bundle.jwtAuthorities.map((a) => a.keyId),
      step.bundle.x509Authorities.length,
      step.changed,
      step.bundle.sequence,
    ]).toEqual([keyIds, certificates, changed, changed ? 6n : 5n]);
  });

  it('marks one authority and leaves the others', () => {
    const before = bundle([x509('p256'), x509('p384')], [jwt('a'), jwt('b', 'p384')]);
    const marked = taintJwtAuthority(taintX509Authority(before, certificateOf(authorities.p384)).bundle, 'a');
    expect(marked.bundle.x509Authorities.map((a) => a.tainted)).toEqual([false, true]);
    expect(marked.bundle.jwtAuthorities.map((a) => a.tainted)).toEqual([true, false]);
    expect([marked.bundle.sequence, marked.changed, before.x509Authorities[1]?.tainted]).toEqual([7n, true, false]);
    expect(taintJwtAuthority(marked.bundle, 'a')).toEqual({ bundle: marked.bundle, changed: false });
    expect(taintX509Authority(marked.bundle, certificateOf(authorities.p384)).changed).toBe(false);
  });

  it('takes one authority out', () => {
    const before = bundle([x509('p256'), x509('p384')], [jwt('a'), jwt('b')]);
    const after = removeJwtAuthority(removeX509Authority(before, certificateOf(authorities.p256)).bundle, 'b');
    expect(summary(after)).toEqual({ x509: [place('p384')], jwt: ['a'], sequence: 7n, changed: true });
  });

  it.each<[string, (b: Bundle) => unknown]>([
    ['bundle.x509-authority.missing', (b) => taintX509Authority(b, certificateOf(authorities.p384))],
    ['bundle.x509-authority.missing', (b) => removeX509Authority(b, certificateOf(authorities.p384))],
    ['bundle.jwt-authority.missing', (b) => taintJwtAuthority(b, 'A')],
    ['bundle.jwt-authority.missing', (b) => removeJwtAuthority(b, '')],
  ])('misses what is not there: %s', (reason, step) => {
    expect(refusal(() => step(bundle([x509('p256')], [jwt('a')])))).toBe(`missing ${reason}`);
  });
});

describe('equality', () => {
  const one = bundle([x509('p256'), x509('p384')], [jwt('a')]);
  it.each<[string, Bundle, boolean, boolean]>([
    ['the same again', bundle([x509('p256'), x509('p384')], [jwt('a')]), true, true],
    ['another sequence', bundle([x509('p256'), x509('p384')], [jwt('a')], 6n), false, true],
    ['another order', bundle([x509('p384'), x509('p256')], [jwt('a')]), false, false],
    ['one less', bundle([x509('p256')], [jwt('a')]), false, false],
    ['a taint mark', bundle([x509('p256', true), x509('p384')], [jwt('a')]), false, false],
    ['another key ID', bundle([x509('p256'), x509('p384')], [jwt('b')]), false, false],
    ['another key', bundle([x509('p256'), x509('p384')], [jwt('a', 'p384')]), false, false],
    ['another expiry', bundle([x509('p256'), x509('p384')], [jwt('a', 'p256', { expiresAt: 1 })]), false, false],
    ['another hint', composeBundle({ ...one, refreshHintSeconds: 61 }), false, false],
    ['another trust domain', composeBundle({ ...one, trustDomain: 'other.org' as TrustDomain }), false, false],
  ])('%s', (_, other, equal, content) => {
    expect([bundleEquals(one, other), bundleContentEquals(one, other)]).toEqual([equal, content]);
  });

  it('begins empty', () => {
    expect(emptyBundle(td)).toEqual({
      trustDomain: td,
      x509Authorities: [],
      jwtAuthorities: [],
      witAuthorities: [],
      refreshHintSeconds: 0,
      sequence: 0n,
    });
  });
});
