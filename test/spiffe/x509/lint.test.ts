import { randomBytes, sign } from 'node:crypto';

import { describe, expect, it } from 'vitest';

import type { SpiffeId, TrustDomain } from '../../../spiffe/id.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { encodeAscii, encodeExplicit, encodeNull, encodeSmallInteger, encodeUnsigned } from '../../../spiffe/x509/der-writer.ts';
import {
  draftAuthority,
  draftLeaf,
  encodeLeafSubject,
  validityOf,
  type Draft,
  type Issuer,
  type LeafFields,
} from '../../../spiffe/x509/draft.ts';
import { encodeExtension } from '../../../spiffe/x509/encoded.ts';
import {
  assembleCertificate,
  checkDraft,
  type AuthorityExpectation,
  type CheckedDraft,
  type LeafExpectation,
} from '../../../spiffe/x509/lint.ts';
import { keyUsage, oid, signatureSchemes } from '../../../spiffe/x509/names.ts';
import { keyIdOf } from '../../../spiffe/x509/public-key.ts';
import { ecPair, ed25519Pair, extension, forgeCertificate, nameOf, rsaPair, type CertificateForm } from '../../help/forge.ts';
import { refusal } from '../refusal.ts';

const td = 'example.org' as TrustDomain;
const at = Date.UTC(2026, 10, 22, 12);
const ttlSeconds = 3600;
const validity = validityOf(at, ttlSeconds);
const signer = ecPair();
const key = ecPair();
const serial = Uint8Array.of(0x7f, ...randomBytes(15));
const spiffeId = 'spiffe://example.org/web' as SpiffeId;
const dnsNames = ['web.example.org', 'b.example.org'];
const issuer: Issuer = {
  trustDomain: td,
  subject: nameOf('authority'),
  keyId: keyIdOf(signer.spki),
  notAfterAt: at + 86_400_000,
  signatureAlgorithm: 'ecdsa-sha256',
};
const fields: LeafFields = { serial, publicKey: key.spki, spiffeId, dnsNames, ...validity };
const expectation: LeafExpectation = {
  profile: 'workload', issuer, serial, publicKey: key.spki, spiffeId, dnsNames, at, ttlSeconds,
};

const right = {
  usage: extension.usage(keyUsage.digitalSignature),
  purposes: extension.purposes(oid.serverAuth, oid.clientAuth),
  basic: extension.basic(false),
  subjectKeyId: extension.subjectKeyId(key.spki),
  authorityKeyId: extension.authorityKeyId(signer.spki),
  names: extension.names(dnsNames, [spiffeId]),
};

type Row<T> = readonly [lint: string, why: string, draft: Draft, expected?: Partial<T>];

/** A leaf's draft with some pieces replaced. */
function forged(form: Partial<CertificateForm>, pieces: Partial<typeof right> = {}): Draft {
  const der = forgeCertificate({
    signer: signer.privateKey,
    spki: key.spki,
    serial: encodeUnsigned(serial),
    validity: [validity.notBeforeAt, validity.notAfterAt],
    subject: encodeLeafSubject(dnsNames),
    extensions: Object.values({ ...right, ...pieces }),
    ...form,
  });
  // Read without the parser, which refuses some of these.
  const raw = Buffer.from(der);
  return { profile: 'workload', tbs: raw.subarray(4, 8 + raw.readUInt16BE(6)) };
}

describe('T-C02 each lint of a leaf fires', () => {
  it('is made of pieces that pass when all of them are right', () => {
    expect(Buffer.from(forged({}).tbs)).toEqual(Buffer.from(draftLeaf('workload', issuer, fields).tbs));
    expect(checkDraft(forged({}), expectation)).toMatchObject({ spiffeId, ...validity, signatureAlgorithm: 'ecdsa-sha256' });
  });

  const other = ecPair();
  const rsa = rsaPair();
  const weak = ed25519Pair();
  const short = Uint8Array.of(0x7f, 1, 2, 3, 4, 5, 6, 7);
  const reserved = 'spiffe://example.org/spire/server' as SpiffeId;
  const agent = 'spiffe://example.org/spire/agent/x' as SpiffeId;
  const foreign = 'spiffe://other.org/web' as SpiffeId;
  const root = 'spiffe://example.org' as SpiffeId;
  const drafted = (more: Partial<LeafFields>): Draft => draftLeaf('workload', issuer, { ...fields, ...more });
  const critical = encodeExtension('1.2.3', true, encodeNull());

  const rows: readonly Row<LeafExpectation>[] = [
    ['unreadable', 'garbage', { profile: 'workload', tbs: Uint8Array.of(1, 2, 3) }],
    ['unreadable', 'trailing byte', { profile: 'workload', tbs: Buffer.concat([forged({}).tbs, Buffer.from([0])]) }],
    ['unreadable', 'version 1', forged({ version: null })],
    ['unreadable', 'version 2', forged({ version: encodeExplicit(0, encodeSmallInteger(1)) })],
    ['unreadable', 'negative serial number', forged({ serial: Uint8Array.of(2, 1, 0x80) })],
    ['unreadable', 'serial number of 21 octets', drafted({ serial: new Uint8Array(21).fill(0x7f) })],
    ['unreadable', 'extension twice', forged({ extensions: [...Object.values(right), right.basic] })],
    ['unreadable', 'unknown critical extension', forged({ extensions: [...Object.values(right), critical] })],
    ['profile', 'another profile', { ...forged({}), profile: 'agent' }],
    ['serial', 'another serial number', forged({ serial: encodeUnsigned(randomBytes(16)) })],
    ['serial', 'serial number of 63 bits', drafted({ serial: short }), { serial: short }],
    ['serial', 'serial number 0', drafted({ serial: Uint8Array.of(0) }), { serial: Uint8Array.of(0) }],
    ['key', 'another key', forged({ spki: other.spki })],
    ['subject-key-id', 'key identifier of another', forged({}, { subjectKeyId: extension.subjectKeyId(other.spki) })],
    ['validity', 'one second longer', drafted({ notAfterAt: validity.notAfterAt + 1000 })],
    ['validity', 'one second shorter', drafted({ notAfterAt: validity.notAfterAt - 1000 })],
    ['validity', 'begins a second later', drafted({ notBeforeAt: validity.notBeforeAt + 1000 })],
    ['validity', 'outlives the issuer', forged({}), { issuer: { ...issuer, notAfterAt: at + 1000 } }],
    ['validity', 'issuer has expired', drafted({ notAfterAt: at - 1000 }), { issuer: { ...issuer, notAfterAt: at - 1000 } }],
    ['trust-domain', 'ID of another trust domain', drafted({ spiffeId: foreign }), { spiffeId: foreign }],
    ['spiffe-id', 'X509-05: no path', drafted({ spiffeId: root }), { spiffeId: root }],
    ['spiffe-id', 'ID of the server', drafted({ spiffeId: reserved }), { spiffeId: reserved }],
    ['spiffe-id', 'ID of an agent', drafted({ spiffeId: agent }), { spiffeId: agent }],
    [
      'spiffe-id',
      'agent as the server',
      { ...drafted({ spiffeId: reserved }), profile: 'agent' },
      { spiffeId: reserved, profile: 'agent' },
    ],
    ['spiffe-id', 'server as a workload', { ...drafted({}), profile: 'server' }, { profile: 'server' }],
    ['subject', 'another subject', forged({ subject: nameOf('web') })],
    ['subject', 'no common name', forged({ subject: encodeLeafSubject([]) })],
    ['subject', "not the caller's", forged({}), { subject: nameOf('mine') }],
    [
      'weak-key',
      'key the policy refuses',
      forged({ spki: weak.spki }, { subjectKeyId: extension.subjectKeyId(weak.spki) }),
      { publicKey: weak.spki },
    ],
    ['key-usage', 'X509-20: no digitalSignature', forged({}, { usage: extension.usage(keyUsage.keyAgreement) })],
    [
      'key-usage',
      'X509-22: keyCertSign',
      forged({}, { usage: extension.usage(keyUsage.digitalSignature | keyUsage.keyCertSign) }),
    ],
    [
      'key-usage',
      'EC with keyEncipherment',
      forged({}, { usage: extension.usage(keyUsage.digitalSignature | keyUsage.keyEncipherment) }),
    ],
    [
      'key-usage',
      'RSA without keyEncipherment',
      forged({ spki: rsa.spki }, { subjectKeyId: extension.subjectKeyId(rsa.spki) }),
      { publicKey: rsa.spki },
    ],
    ['key-usage', 'X509-17: not critical', forged({}, { usage: extension.usage(keyUsage.digitalSignature, false) })],
    ['basic-constraints', 'X509-09: cA', forged({}, { basic: extension.basic(true) })],
    ['ext-key-usage', 'X509-23: server only', forged({}, { purposes: extension.purposes(oid.serverAuth) })],
    ['ext-key-usage', 'any', forged({}, { purposes: extension.purposes(oid.serverAuth, oid.clientAuth, oid.anyExtKeyUsage) })],
    ['extensions', 'another order', forged({ extensions: Object.values(right).toReversed() })],
    ['extensions', 'one more', forged({ extensions: [...Object.values(right), encodeExtension('1.2.3', false, encodeNull())] })],
    ['uri', 'X509-01: two URIs', forged({}, { names: extension.names(dnsNames, [spiffeId, spiffeId]) })],
    ['uri', 'X509-01: another ID', forged({}, { names: extension.names(dnsNames, [agent]) })],
    ['uri', 'no URI', forged({}, { names: extension.names(dnsNames, []) })],
    ['uri', 'critical', forged({}, { names: extension.names(dnsNames, [spiffeId], true) })],
    [
      'uri',
      'an address beside it',
      forged(
        {},
        {
          names: encodeExtension(
            oid.subjectAltName,
            false,
            Buffer.concat([Buffer.from([0x30, 32]), encodeAscii(0x86, spiffeId), Buffer.from([0x87, 4, 127, 0, 0, 1])]),
          ),
        },
      ),
    ],
    ['dns', 'one name too many', forged({}, { names: extension.names([...dnsNames, 'c.example.org'], [spiffeId]) })],
    ['dns', 'one name too few', forged({}, { names: extension.names(['web.example.org'], [spiffeId]) })],
    ['dns', 'another order', forged({}, { names: extension.names(dnsNames.toReversed(), [spiffeId]) })],
    ['dns', 'a name that is none', drafted({ dnsNames: ['-a b'] }), { dnsNames: ['-a b'] }],
    ['issuer', 'another issuer', forged({ issuer: nameOf('Authority') })],
    ['authority-key-id', 'key identifier of another', forged({}, { authorityKeyId: extension.authorityKeyId(other.spki) })],
    ['algorithm', 'another algorithm', forged({ algorithm: signatureSchemes['ecdsa-sha512'].identifier })],
  ];

  const named = rows.map(([lint, why, draft, expected]) => ({ lint, why, draft, expected }));
  it.each(named)('$lint: $why', ({ lint, draft, expected }) => {
    expect(refusal(() => checkDraft(draft, { ...expectation, ...expected }))).toBe(`internal x509.draft.${lint}`);
  });
});

describe('T-C02 each lint of an authority fires', () => {
  const own: AuthorityExpectation = { profile: 'authority', trustDomain: td, serial, publicKey: key.spki, at, ttlSeconds };
  const made = draftAuthority({ serial, publicKey: key.spki, trustDomain: td, ...validity });
  const { issuer: name } = parseBody(made);
  const pieces = {
    usage: extension.usage(keyUsage.keyCertSign | keyUsage.cRLSign),
    basic: extension.basic(true),
    subjectKeyId: extension.subjectKeyId(key.spki),
    names: extension.names([], ['spiffe://example.org']),
  };
  const wrong = (changed: Partial<typeof pieces>, form: Partial<CertificateForm> = {}): Draft => ({
    ...forged({ issuer: name, subject: name, extensions: Object.values({ ...pieces, ...changed }), ...form }),
    profile: 'authority',
  });

  it('is made of pieces that pass when all of them are right', () => {
    expect(Buffer.from(wrong({}).tbs)).toEqual(Buffer.from(made.tbs));
    expect(checkDraft(made, own).spiffeId).toBe('spiffe://example.org');
  });

  const rows: readonly Row<AuthorityExpectation>[] = [
    ['basic-constraints', 'X509-09: no cA', wrong({ basic: extension.basic(false) })],
    ['basic-constraints', 'path length', wrong({ basic: extension.pathLen(0) })],
    ['key-usage', 'X509-18: no keyCertSign', wrong({ usage: extension.usage(keyUsage.cRLSign) })],
    [
      'key-usage',
      'X509-19: digitalSignature',
      wrong({ usage: extension.usage(keyUsage.digitalSignature | keyUsage.keyCertSign | keyUsage.cRLSign) }),
    ],
    ['uri', 'X509-11: ID with a path', wrong({ names: extension.names([], [spiffeId]) })],
    ['uri', 'X509-12: another trust domain', wrong({ names: extension.names([], ['spiffe://other.org']) })],
    ['ext-key-usage', 'extended usage', wrong({}, { extensions: [...Object.values(pieces), right.purposes] })],
    [
      'extensions',
      'identifier of itself',
      wrong({}, { extensions: [...Object.values(pieces), extension.authorityKeyId(key.spki)] }),
    ],
    ['subject', 'another subject', wrong({}, { subject: nameOf('x') })],
    ['issuer', 'another issuer than itself', wrong({}, { issuer: nameOf('x') })],
    ['trust-domain', 'issuer of another trust domain', made, { issuer: { ...issuer, trustDomain: 'other.org' as TrustDomain } }],
  ];

  const named = rows.map(([lint, why, draft, expected]) => ({ lint, why, draft, expected }));
  it.each(named)('$lint: $why', ({ lint, draft, expected }) => {
    expect(refusal(() => checkDraft(draft, { ...own, ...expected }))).toBe(`internal x509.draft.${lint}`);
  });
});

describe('assembling', () => {
  const checked = checkDraft(draftLeaf('workload', issuer, fields), expectation);

  it('takes nothing that was not checked, whatever its type claims', () => {
    const pretended: CheckedDraft = { ...checked };
    expect(refusal(() => assembleCertificate(pretended, Uint8Array.of(1)))).toBe('internal x509.draft.unchecked');
    expect(refusal(() => assembleCertificate(checked, new Uint8Array()))).toBe('internal x509.draft.signature');
  });

  it('signs what was checked, even when the draft changes under it', () => {
    const draft = draftLeaf('workload', issuer, fields);
    const found = checkDraft(draft, expectation);
    const before = Buffer.from(draft.tbs);
    draft.tbs.fill(0);
    const der = assembleCertificate(found, sign('sha256', found.tbs, signer.privateKey));
    expect(Buffer.from(parseCertificate(der).tbs)).toEqual(before);
  });
});

function parseBody(draft: Draft): { readonly issuer: Uint8Array } {
  const { issuer: name } = parseCertificate(
    assembleCertificate(
      checkDraft(draft, { profile: 'authority', trustDomain: td, serial, publicKey: key.spki, at, ttlSeconds }),
      Uint8Array.of(1),
    ),
  );
  return { issuer: name };
}
