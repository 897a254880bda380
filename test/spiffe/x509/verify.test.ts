import { readFileSync } from 'node:fs';

import { describe, expect, it } from 'vitest';

import { keyUsage, oid } from '../../../spiffe/x509/names.ts';
import { verifyPeer, verifyX509Svid } from '../../../spiffe/x509/verify.ts';
import { authorityExtensions, ecPair, extension, forgeCertificate, leafExtensions, nameOf } from '../../help/forge.ts';
import { openssl } from '../../help/openssl.ts';
import type { CertificateCase } from '../../vectors/generate-certificates.ts';
import { refusal } from '../refusal.ts';

const file = readFileSync(new URL('../../vectors/certificates.json', import.meta.url), 'utf8');
const cases = JSON.parse(file) as readonly CertificateCase[];
const decoded = (all: readonly string[]): readonly Uint8Array[] => all.map((der) => Buffer.from(der, 'base64'));

describe('T-C04 certificates named by their fault', () => {
  it('come in more than forty cases, each of its own name', () => {
    expect(cases.length).toBeGreaterThanOrEqual(40);
    expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
  });

  it.each(cases)('$name: $verdict', ({ chain, authorities, at, verdict }) => {
    const request = { chain: decoded(chain), authorities: decoded(authorities), at };
    const found = refusal(() => verifyX509Svid(request));
    expect(found.replace(/^accepted$/, 'accept').replace(/^\S+ /, '')).toBe(verdict);
    if (verdict !== 'accept') return;
    const { path, leaf, authority } = verifyX509Svid(request);
    expect([path[0]?.der, path.at(-1)?.der]).toEqual([leaf.der, authority.der]);
    expect(request.authorities).toContain(authority.der);
  });
});

describe('whom a verdict is about', () => {
  const at = Date.UTC(2027, 0, 1);
  const [ca, foreign, key] = [ecPair(), ecPair(), ecPair()];
  const authority = (pair: typeof ca, uri: string): Uint8Array =>
    forgeCertificate(
      { signer: pair.privateKey, spki: pair.spki, subject: nameOf('authority'), extensions: authorityExtensions(uri) },
    );
  const bundles: Readonly<Record<string, readonly Uint8Array[]>> = {
    'example.org': [authority(ca, 'spiffe://example.org')],
    'other.org': [authority(foreign, 'spiffe://other.org')],
  };
  const leaf = (pair: typeof ca, uri: string): Uint8Array =>
    forgeCertificate({ signer: pair.privateKey, spki: key.spki, extensions: leafExtensions(uri) });
  const verdict = (der: Uint8Array): string => refusal(() => verifyPeer([der], (td) => bundles[td], at));

  it('X509-28: uses the bundle of the trust domain of the ID and no other', () => {
    expect(verdict(leaf(ca, 'spiffe://example.org/web'))).toBe('accepted');
    expect(verdict(leaf(foreign, 'spiffe://other.org/web'))).toBe('accepted');
    expect(verdict(leaf(foreign, 'spiffe://example.org/web'))).toBe('unauthenticated x509.path.signature');
    expect(verdict(leaf(ca, 'spiffe://third.org/web'))).toBe('unauthenticated x509.path.unknown-trust-domain');
  });

  it('tells who the peer is', () => {
    const { spiffeId, path } = verifyPeer([leaf(ca, 'spiffe://example.org/web')], (td) => bundles[td], at);
    expect(spiffeId).toBe('spiffe://example.org/web');
    expect(path).toHaveLength(2);
  });

  it('X509-23: holds the peer to its extended usage, in the role it was met', () => {
    const withPurposes = (...purposes: readonly string[]): Uint8Array =>
      forgeCertificate({
        signer: ca.privateKey,
        spki: key.spki,
        extensions: [
          extension.usage(keyUsage.digitalSignature),
          extension.purposes(...purposes),
          extension.names([], ['spiffe://example.org/web']),
        ],
      });
    const as = (usage: 'server' | 'client', der: Uint8Array): string =>
      refusal(() => verifyPeer([der], (td) => bundles[td], at, usage));
    expect(as('client', withPurposes(oid.serverAuth))).toBe('unauthenticated x509.path.usage');
    expect(as('server', withPurposes(oid.serverAuth))).toBe('accepted');
    expect(as('client', withPurposes(oid.anyExtKeyUsage))).toBe('accepted');
    expect(verdict(withPurposes('1.2.3.4'))).toBe('accepted');
  });

  it('keeps what it read of an authority, and never mixes two of them up', () => {
    const [right, wrong] = [bundles['example.org'] ?? [], bundles['other.org'] ?? []];
    const chain = [leaf(ca, 'spiffe://example.org/web')];
    for (let round = 0; round < 3; round += 1) {
      expect(refusal(() => verifyX509Svid({ chain, authorities: right, at }))).toBe('accepted');
      expect(refusal(() => verifyX509Svid({ chain, authorities: wrong, at }))).toBe('unauthenticated x509.path.signature');
    }
  });

  it('agrees with openssl about a right leaf', () => {
    const printed = openssl(['x509', '-inform', 'der', '-noout', '-ext', 'subjectAltName'], leaf(ca, 'spiffe://example.org/web'));
    if (printed !== undefined) expect(printed).toContain('URI:spiffe://example.org/web');
  });
});
