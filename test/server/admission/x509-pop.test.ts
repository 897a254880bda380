import { createHash, createPrivateKey, generateKeyPairSync, randomBytes, type KeyObject } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { answerChallenge } from '../../../agent/node/x509-pop.ts';
import { createX509PopVerifier } from '../../../server/admission/x509-pop.ts';
import type { VerifiedNode } from '../../../server/admission/verifier.ts';
import { encodeName } from '../../../spiffe/x509/encoded.ts';
import { encodeUnsigned } from '../../../spiffe/x509/der-writer.ts';
import { keyUsage, oid } from '../../../spiffe/x509/names.ts';
import { authorityExtensions, ecPair, ed25519Pair, extension, forgeCertificate, nameOf, rsaPair, type CertificateForm, type Pair } from '../../help/forge.ts';
import { exampleOrg, idOf } from '../../help/store.ts';

const at = Date.UTC(2026, 5, 1);
const root = ecPair();
const middle = ecPair();
const rootCertificate = forgeCertificate({ signer: root.privateKey, spki: root.spki, subject: nameOf('root'), issuer: nameOf('root'), extensions: authorityExtensions() });
const middleCertificate = forgeCertificate({ signer: root.privateKey, spki: middle.spki, subject: nameOf('middle'), issuer: nameOf('root'), extensions: authorityExtensions() });
const verifier = createX509PopVerifier({ authorities: [rootCertificate] });

function leafOf(pair: Pair, form: Partial<CertificateForm> = {}): Uint8Array {
  return forgeCertificate({
    signer: middle.privateKey,
    spki: pair.spki,
    issuer: nameOf('middle'),
    subject: encodeName([[oid.organization, 'Acme'], [oid.commonName, 'node-1']]),
    serial: encodeUnsigned(Uint8Array.of(0x0a, 0xbc)),
    extensions: [extension.usage(keyUsage.digitalSignature)],
    ...form,
  });
}

function payloadOf(...certificates: readonly Uint8Array[]): Uint8Array {
  return Buffer.from(JSON.stringify({ certificates: certificates.map((der) => Buffer.from(der).toString('base64')) }));
}

type Answer = (challenge: Uint8Array) => Uint8Array | string;

function show(payload: Uint8Array, answer: Answer): Promise<VerifiedNode> {
  return verifier.verify(payload, async (challenge) => Buffer.from(answer(challenge)), { trustDomain: exampleOrg, remoteAddress: '192.0.2.1', at });
}

function holding(key: KeyObject): Answer {
  return (challenge) => answerChallenge(challenge, key, randomBytes(32));
}

const sha1 = (der: Uint8Array) => createHash('sha1').update(der).digest('hex');
const pair = ecPair();
const leaf = leafOf(pair);

describe('createX509PopVerifier', () => {
  it.each([
    ['P-256', ecPair('P-256')],
    ['P-384', ecPair('P-384')],
    ['P-521', ecPair('P-521')],
    ['RSA 2048', rsaPair(2048)],
  ] as const)('believes whoever has the key: %s', async (_name, own) => {
    const certificate = leafOf(own);
    for (let round = 0; round < 8; round += 1) {
      const node = await show(payloadOf(certificate, middleCertificate), holding(own.privateKey));
      expect(node).toMatchObject({ agentId: idOf(`/spire/agent/x509pop/${sha1(certificate)}`), canReattest: true, tokenHash: undefined });
    }
  });

  it('tells subject, serial number, names and everyone above as selectors', async () => {
    const certificate = leafOf(pair, {
      extensions: [
        extension.usage(keyUsage.digitalSignature),
        extension.names(['node.example.org'], ['x509pop://example.org/rack/r1/s2', 'x509pop://other.org/rack/x', 'x509pop://example.org/norack', 'https://example.org/a/b']),
      ],
    });
    const { selectors } = await show(payloadOf(certificate, middleCertificate), holding(pair.privateKey));
    expect(selectors).toEqual([
      'x509pop:subject:cn:node-1',
      `x509pop:ca:fingerprint:${sha1(middleCertificate)}`,
      `x509pop:ca:fingerprint:${sha1(rootCertificate)}`,
      'x509pop:serialnumber:0abc',
      'x509pop:san:rack:r1/s2',
    ]);
  });

  it('poses 32 fresh bytes for the kind of key that the certificate has', async () => {
    const posed: string[] = [];
    for (const own of [pair, rsaPair()]) {
      const spy: Answer = (challenge) => {
        posed.push(Buffer.from(challenge).toString());
        return holding(own.privateKey)(challenge);
      };
      await show(payloadOf(leafOf(own), middleCertificate), spy);
      await show(payloadOf(leafOf(own), middleCertificate), spy);
    }
    const [first, second, third] = posed.map((text) => JSON.parse(text) as Record<string, { nonce: string } | null>);
    expect(first!['rsa_signature']).toBeNull();
    expect(Buffer.from(first!['ecdsa_signature']!.nonce, 'base64')).toHaveLength(32);
    expect(first!['ecdsa_signature']!.nonce).not.toBe(second!['ecdsa_signature']!.nonce);
    expect(third!['ecdsa_signature']).toBeNull();
    expect(Buffer.from(third!['rsa_signature']!.nonce, 'base64')).toHaveLength(32);
  });

  const denied: readonly (readonly [name: string, certificates: readonly Uint8Array[], answer: Answer])[] = [
    ['another key', [leaf, middleCertificate], holding(ecPair().privateKey)],
    ['a signature over another nonce', [leaf, middleCertificate], () => answerChallenge(Buffer.from(JSON.stringify({ ecdsa_signature: { nonce: Buffer.alloc(32).toString('base64') } })), pair.privateKey, randomBytes(32))],
    ['no path', [leaf], holding(pair.privateKey)],
    ['a foreign root', [leafOf(pair, { signer: pair.privateKey, issuer: nameOf('root') })], holding(pair.privateKey)],
    ['an expired leaf', [leafOf(pair, { validity: [Date.UTC(2025, 0, 1), Date.UTC(2026, 0, 1)] }), middleCertificate], holding(pair.privateKey)],
    ['a leaf that may not sign', [leafOf(pair, { extensions: [extension.usage(keyUsage.keyEncipherment)] }), middleCertificate], holding(pair.privateKey)],
    ['a leaf without key usage', [leafOf(pair, { extensions: null }), middleCertificate], holding(pair.privateKey)],
    ['zero for a signature', [leaf, middleCertificate], () => JSON.stringify({ ecdsa_signature: { nonce: Buffer.alloc(32).toString('base64'), r: 'AA==', s: 'AA==' } })],
  ];
  it.each(denied)('denies %s', async (_name, certificates, answer) => {
    await expect(show(payloadOf(...certificates), answer)).rejects.toMatchObject({
      kind: 'denied',
      reason: 'x509pop.refused',
      message: expect.stringMatching(/^nodeattestor\(x509pop\): /) as string,
    });
  });

  const weak = generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey;
  const never: Answer = () => {
    throw new Error('no challenge may be posed');
  };
  const malformed: readonly (readonly [name: string, payload: Uint8Array])[] = [
    ['not JSON', Buffer.from('{')],
    ['a list', Buffer.from('[]')],
    ['a repeated member', Buffer.from('{"certificates":[],"certificates":[]}')],
    ['no certificates', Buffer.from('{}')],
    ['an empty list', payloadOf()],
    ['a number for a certificate', Buffer.from('{"certificates":[1]}')],
    ['base64url', Buffer.from('{"certificates":["_-8"]}')],
    ['T-B05: five intermediates', payloadOf(leaf, ...Array.from({ length: 5 }, () => middleCertificate))],
    ['T-B05: a hundred certificates', payloadOf(leaf, ...Array.from({ length: 100 }, () => middleCertificate))],
    ['T-B05: more bytes than any chain', Buffer.alloc(200_000, 0x20)],
    ['T-B05: RSA of 1024 bits', payloadOf(leafOf({ privateKey: weak, spki: rsaPair(1024).spki }), middleCertificate)],
    ['T-B05: Ed25519', payloadOf(leafOf(ed25519Pair()), middleCertificate)],
    ['trailing bytes', payloadOf(Buffer.concat([leaf, Buffer.alloc(1)]), middleCertificate)],
    ['garbage above the leaf', payloadOf(leaf, Buffer.from('middle'))],
  ];
  it.each(malformed)('refuses %s before it computes with it', async (_name, payload) => {
    await expect(show(payload, never)).rejects.toMatchObject({ kind: 'invalid', reason: 'x509pop.malformed' });
  });

  const nonce = Buffer.alloc(32, 1).toString('base64');
  const responses: readonly (readonly [name: string, response: string])[] = [
    ['nothing', ''],
    ['null', 'null'],
    ['the other kind of signature', JSON.stringify({ rsa_signature: { nonce, signature: nonce } })],
    ['a short nonce', JSON.stringify({ ecdsa_signature: { nonce: 'AA==', r: 'AQ==', s: 'AQ==' } })],
    ['no r', JSON.stringify({ ecdsa_signature: { nonce, s: 'AQ==' } })],
    ['r longer than the curve', JSON.stringify({ ecdsa_signature: { nonce, r: Buffer.alloc(33, 1).toString('base64'), s: 'AQ==' } })],
    ['20 kB', JSON.stringify({ ecdsa_signature: { nonce, r: 'A'.repeat(20_000), s: 'AQ==' } })],
  ];
  it.each(responses)('refuses a response with %s', async (_name, response) => {
    await expect(show(payloadOf(leaf, middleCertificate), () => response)).rejects.toMatchObject({ kind: 'invalid', reason: 'x509pop.malformed' });
  });

  it('takes r and s without their leading zeros', async () => {
    // About every 128th signature has one; the answer strips them as Go does.
    let short = 0;
    for (let round = 0; round < 600; round += 1) {
      const answer: Answer = (challenge) => {
        const text = answerChallenge(challenge, createPrivateKey(pair.privateKey.export({ type: 'pkcs8', format: 'pem' })), randomBytes(32));
        const { ecdsa_signature: part } = JSON.parse(text) as { ecdsa_signature: { r: string; s: string } };
        if ([part.r, part.s].some((value) => Buffer.from(value, 'base64').length < 32)) short += 1;
        return text;
      };
      await show(payloadOf(leaf, middleCertificate), answer);
    }
    expect(short).toBeGreaterThan(0);
  });
});
