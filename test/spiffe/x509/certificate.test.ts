import { X509Certificate } from 'node:crypto';

import { describe, expect, it } from 'vitest';

import {
  hasKeyUsage,
  isSigning,
  parseCertificate,
  parseCertificateBody,
  splitCertificates,
} from '../../../spiffe/x509/certificate.ts';
import { encodeUnsigned } from '../../../spiffe/x509/der-writer.ts';
import { keyUsage, oid } from '../../../spiffe/x509/names.ts';
import { authorityExtensions, ecPair, extension, forgeCertificate, join, leafExtensions, nameOf } from '../../help/forge.ts';
import { refusal } from '../refusal.ts';

const [ca, key] = [ecPair(), ecPair()];
const validity = [Date.UTC(2026, 0, 1), Date.UTC(2051, 5, 6, 7, 8, 9)] as const;
const serial = Buffer.from('f0e1d2c3b4a5968778695a4b3c2d1e0f', 'hex');
const leaf = forgeCertificate({
  signer: ca.privateKey,
  spki: key.spki,
  serial: encodeUnsigned(serial),
  validity,
  extensions: [
    ...leafExtensions('spiffe://example.org/web').slice(0, 3),
    extension.names(['a.example', 'b.example'], ['spiffe://example.org/web']),
    extension.subjectKeyId(key.spki),
    extension.authorityKeyId(ca.spki),
  ],
});
const authority = forgeCertificate({
  signer: ca.privateKey,
  spki: ca.spki,
  subject: nameOf('authority'),
  extensions: [...authorityExtensions().slice(0, 1), extension.pathLen(3), ...authorityExtensions().slice(2)],
});

describe('a certificate', () => {
  it('yields the fields SPIFFE needs, the same as node', () => {
    const certificate = parseCertificate(leaf);
    const node = new X509Certificate(leaf);
    expect(certificate).toMatchObject({
      signatureAlgorithm: 'ecdsa-sha256',
      notBeforeAt: validity[0],
      notAfterAt: validity[1],
      isAuthority: false,
      pathLen: undefined,
      keyUsage: keyUsage.digitalSignature,
      extKeyUsage: [oid.serverAuth, oid.clientAuth],
      uris: ['spiffe://example.org/web'],
      dnsNames: ['a.example', 'b.example'],
    });
    expect(certificate.serial).toMatchObject({
      hex: 'f0e1d2c3b4a5968778695a4b3c2d1e0f',
      number: 0xf0e1d2c3b4a5968778695a4b3c2d1e0fn,
      decimal: 0xf0e1d2c3b4a5968778695a4b3c2d1e0fn.toString(),
    });
    expect(certificate.serial.hex).toBe(node.serialNumber.toLowerCase());
    expect(new Date(node.validTo).getTime()).toBe(certificate.notAfterAt);
    expect(Buffer.compare(certificate.spki, key.spki)).toBe(0);
    expect(Buffer.compare(certificate.issuer, nameOf('authority'))).toBe(0);
    expect(Buffer.compare(certificate.subject, nameOf('leaf'))).toBe(0);
    expect(certificate.subjectKeyId).toHaveLength(20);
    expect(certificate.authorityKeyId).toHaveLength(20);
    expect([hasKeyUsage(certificate, keyUsage.keyCertSign), isSigning(certificate)]).toEqual([false, false]);
  });

  it('of an authority tells that it signs, and how far', () => {
    const certificate = parseCertificate(authority);
    expect(certificate).toMatchObject({ isAuthority: true, pathLen: 3, extKeyUsage: undefined, uris: ['spiffe://example.org'] });
    expect(isSigning(certificate)).toBe(true);
  });

  it('has a body that reads the same alone', () => {
    const { der: _der, signature: _signature, ...body } = parseCertificate(leaf);
    expect(parseCertificateBody(Uint8Array.from(body.tbs)).serial.hex).toBe(body.serial.hex);
    expect(parseCertificateBody(body.tbs).uris).toEqual(body.uris);
  });

  it('differs with every byte: none of them is ignored', () => {
    // The last 72 bytes are the signature's, any value of which reads.
    for (let at = 0; at < leaf.length - 72; at += 1) {
      const changed = Uint8Array.from(leaf);
      changed[at] = (changed[at] ?? 0) ^ 0x80;
      const verdict = refusal(() => parseCertificate(changed));
      if (verdict === 'accepted') expect(Buffer.compare(parseCertificate(changed).tbs, parseCertificate(leaf).tbs)).not.toBe(0);
      else expect(verdict).toMatch(/^(invalid|unsupported) (der|extension|certificate)\./);
    }
  });
});

describe('concatenated certificates', () => {
  it('come apart in order', () => {
    expect(
      splitCertificates(join(leaf, authority)).map((der) => Buffer.from(der)),
    ).toEqual([Buffer.from(leaf), Buffer.from(authority)]);
    expect(splitCertificates(leaf)).toHaveLength(1);
  });

  it.each<readonly [why: string, bytes: Uint8Array, verdict: string]>([
    ['none', new Uint8Array(), 'invalid certificate.none'],
    ['65', join(...Array.from({ length: 65 }, () => leaf)), 'invalid certificate.too-many'],
    ['half of the second', join(leaf, authority.subarray(0, 100)), 'invalid der.truncated'],
    ['zeros after the first', join(leaf, new Uint8Array(4)), 'invalid der.tag'],
    ['PEM', Buffer.from('-----BEGIN CERTIFICATE-----'), 'invalid der.tag'],
  ])('%s: %s', (_why, bytes, verdict) => {
    expect(refusal(() => splitCertificates(bytes))).toBe(verdict);
  });
});
