import { constants, randomBytes, verify, X509Certificate } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { answerChallenge, x509PopEvidence } from '../../../agent/node/x509-pop.ts';
import { formatPemCertificates } from '../../../spiffe/pem.ts';
import { ecPair, forgeCertificate, leafExtensions, rsaPair, type Pair } from '../../help/forge.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'steeple-pop-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

const nonce = randomBytes(32);
const challenge = (member: string, size = 32): Buffer => Buffer.from(JSON.stringify({ [member]: { nonce: randomBytes(size).toString('base64') } }));

async function files(pair: Pair, key: Pair = pair) {
  const certificate = forgeCertificate({ signer: pair.privateKey, spki: pair.spki, extensions: leafExtensions('spiffe://example.org/x') });
  const named = (name: string): string => path.join(directory, name);
  await writeFile(named('cert.pem'), formatPemCertificates([certificate]));
  await writeFile(named('key.pem'), key.privateKey.export({ type: 'pkcs8', format: 'pem' }));
  return { certificate: named('cert.pem'), key: named('key.pem'), intermediates: undefined, der: certificate };
}

describe('the answer to a challenge', () => {
  it.each([
    ['ECDSA', ecPair(), 'ecdsa_signature'],
    ['RSA', rsaPair(), 'rsa_signature'],
  ] as const)('%s signs the nonces of both sides, the server’s first', (_name, pair, member) => {
    const given = challenge(member);
    const theirs = Buffer.from((JSON.parse(given.toString()) as Record<string, { nonce: string }>)[member]!.nonce, 'base64');
    const answer = JSON.parse(answerChallenge(given, pair.privateKey, nonce)) as Record<string, { nonce: string; signature?: string; r?: string; s?: string } | null>;
    const part = answer[member]!;
    expect(part.nonce).toBe(nonce.toString('base64'));
    expect(answer[member === 'rsa_signature' ? 'ecdsa_signature' : 'rsa_signature']).toBeNull();
    const message = Buffer.concat([theirs, nonce]);
    const wide = (text = ''): Buffer => Buffer.concat([Buffer.alloc(32), Buffer.from(text, 'base64')]).subarray(-32);
    const good =
      part.signature === undefined
        ? verify('sha256', message, { key: pair.privateKey, dsaEncoding: 'ieee-p1363' }, Buffer.concat([wide(part.r), wide(part.s)]))
        : verify('sha256', message, { key: pair.privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_AUTO }, Buffer.from(part.signature, 'base64'));
    expect(good).toBe(true);
  });

  it('writes r and s without leading zeros', () => {
    const pair = ecPair();
    for (let i = 0; i < 300; i += 1) {
      const { ecdsa_signature: part } = JSON.parse(answerChallenge(challenge('ecdsa_signature'), pair.privateKey, nonce)) as { ecdsa_signature: { r: string; s: string } };
      expect(Buffer.from(part.r, 'base64')[0]).not.toBe(0);
      expect(Buffer.from(part.s, 'base64')[0]).not.toBe(0);
    }
  });

  it.each([
    ['of the other kind of key', challenge('rsa_signature')],
    ['with a short nonce', challenge('ecdsa_signature', 31)],
    ['with a long nonce', challenge('ecdsa_signature', 33)],
    ['that is empty', Buffer.alloc(0)],
    ['that is no JSON', Buffer.from('{')],
    ['that is null', Buffer.from('null')],
    ['with null in it', Buffer.from('{"ecdsa_signature":null}')],
  ])('refuses a challenge %s', (_how, given) => {
    expect(() => answerChallenge(given, ecPair().privateKey, nonce)).toThrow(expect.objectContaining({ reason: 'evidence.challenge.malformed' }));
  });
});

describe('the evidence', () => {
  it('shows the leaf first, as DER in base64', async () => {
    const { der, ...named } = await files(ecPair());
    const evidence = await x509PopEvidence(named).produce();
    const { certificates } = JSON.parse(Buffer.from(evidence.payload).toString()) as { certificates: string[] };
    expect(certificates.map((text) => new X509Certificate(Buffer.from(text, 'base64')).raw)).toEqual([Buffer.from(der)]);
  });

  it.each([
    ['evidence.x509pop.mismatch', async () => files(ecPair(), ecPair())],
    ['evidence.x509pop.unreadable', async () => ({ ...(await files(ecPair())), key: path.join(directory, 'none') })],
    ['evidence.x509pop.certificate', async () => ({ ...(await files(ecPair())), certificate: path.join(directory, 'key.pem') })],
    ['evidence.x509pop.key', async () => ({ ...(await files(ecPair())), key: path.join(directory, 'cert.pem') })],
  ])('%s', async (reason, make) => {
    await expect(x509PopEvidence(await make()).produce()).rejects.toMatchObject({ reason });
  });
});
