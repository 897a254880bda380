import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { isSigner, maxSignedDataBytes, readSignedData, verifySignedData, type SignedContent } from '../../../server/admission/cms.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { formatPemCertificates } from '../../../spiffe/pem.ts';
import { parseCertificate, type Certificate } from '../../../spiffe/x509/certificate.ts';
import { encodeNull, encodeOctetString, encodeSequence, encodeSmallInteger } from '../../../spiffe/x509/der-writer.ts';
import { keyUsage } from '../../../spiffe/x509/names.ts';
import { ecPair, extension, forgeCertificate, nameOf, rsaPair, type CertificateForm, type Pair } from '../../help/forge.ts';
import { openssl } from '../../help/openssl.ts';
import {
  algorithm,
  attribute,
  attributesOf,
  messageOf,
  oids,
  signerInfo,
  sorted,
  streamOf,
  withNull,
  type MessageForm,
  type Signing,
} from '../../vectors/documents.ts';
import { damaged, forgeries, forgeryReasons, type Seed } from '../../vectors/forged-messages.ts';

const pair = rsaPair();
const foreignPair = rsaPair();
const serial = encodeSmallInteger(4711);

function certificateOf(own: Pair, form: Partial<CertificateForm> = {}): Certificate {
  const { signer = own.privateKey } = form;
  return parseCertificate(forgeCertificate({ spki: own.spki, subject: nameOf('signer'), issuer: nameOf('cloud'), serial, extensions: null, ...form, signer }));
}

const certificate = certificateOf(pair);
const signing: Signing = { key: pair.privateKey, issuer: nameOf('cloud'), serial };
const content = Buffer.from(JSON.stringify({ account: '1', filler: 'x'.repeat(500) }));
const otherContent = Buffer.from(JSON.stringify({ account: '2', filler: 'y'.repeat(300) }));

/** As Amazon signs, and as Azure does. */
const amazon: Seed = {
  content,
  otherContent,
  signing,
  foreign: { ...signing, key: foreignPair.privateKey },
  digestName: algorithm(oids.sha256),
  algorithm: withNull(oids.rsaSha256),
  hasAttributes: true,
};
const azure: Seed = {
  ...amazon,
  digestName: withNull(oids.rsaSha256),
  algorithm: withNull(oids.rsa),
  hasAttributes: false,
};

function formOf(seed: Seed, change: Partial<MessageForm> = {}): MessageForm {
  const { digestName, algorithm: scheme } = seed;
  const attributes = seed.hasAttributes ? attributesOf(seed.content, { digestName, algorithm: scheme }) : undefined;
  return {
    content: seed.content,
    signers: [signerInfo(seed.content, { ...seed.signing, digestName, algorithm: scheme, attributes })],
    digestNames: [digestName],
    ...change,
  };
}

function open(message: Uint8Array, signer = certificate): SignedContent {
  return verifySignedData(readSignedData(message, { streamed: true }), signer);
}

function reasonOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof SpiffeError) return error.reason;
    throw error;
  }
  return 'accepted';
}

describe('honest messages', () => {
  it.each([
    ['of Amazon, a stream', streamOf(formOf(amazon))],
    ['of Amazon, DER', messageOf(formOf(amazon))],
    ['of Amazon, a stream with a certificate', streamOf(formOf(amazon, { certificates: [certificate.der] }))],
    ['of Azure', messageOf(formOf(azure, { certificates: [certificate.der] }))],
  ])('yield their content and signer: %s', (_name, message) => {
    const { bytes, signer } = open(message);
    expect(Buffer.from(bytes).equals(content)).toBe(true);
    expect(signer).toBe(certificate);
  });

  it('may be of any length that streams cut in their way', () => {
    for (const length of [1, 999, 1000, 1001, 2000, 2500]) {
      const long = Buffer.alloc(length, 'a');
      expect(Buffer.from(open(streamOf(formOf({ ...amazon, content: long }))).bytes).equals(long)).toBe(true);
    }
  });

  it.each(['sha256', 'sha384', 'sha512'] as const)('may be signed with %s', (hash) => {
    const name = algorithm(oids[hash]);
    const scheme = withNull({ sha256: oids.rsaSha256, sha384: oids.rsaSha384, sha512: oids.rsaSha512 }[hash]);
    const attributes = attributesOf(content, { hash, digestName: name, algorithm: scheme });
    const signers = [signerInfo(content, { ...signing, hash, digestName: name, algorithm: scheme, attributes })];
    expect(Buffer.from(open(messageOf({ content, signers, digestNames: [name] })).bytes).equals(content)).toBe(true);
  });

  it('may enclose any certificates in any order, which change nothing', () => {
    const others = [certificateOf(foreignPair).der, certificate.der, forgeCertificate({ signer: pair.privateKey, spki: pair.spki, extensions: null })];
    for (const certificates of [others, others.toReversed(), []]) {
      const data = readSignedData(messageOf(formOf(azure, { certificates })), { streamed: false });
      expect(data.enclosed.map((der) => Buffer.from(der))).toEqual(certificates.map((der) => Buffer.from(der)));
      expect(Buffer.from(verifySignedData(data, certificate).bytes).equals(content)).toBe(true);
    }
  });

  it('may carry signed attributes that tell nothing here, and lack those that need not be there', () => {
    const right = attributesOf(content);
    const more = sorted([...right, attribute(oids.smimeCapabilities, encodeSequence())]);
    const fewer = [right[0]!, right[3]!];
    for (const attributes of [more, fewer]) {
      const signers = [signerInfo(content, { ...signing, attributes })];
      expect(Buffer.from(open(messageOf({ content, signers })).bytes).equals(content)).toBe(true);
    }
  });
});

describe.each([
  ['Amazon', amazon],
  ['Azure', azure],
] as const)('forged messages of %s', (_name, seed) => {
  const all = [...forgeries(seed)];

  it('are refused, each family for its reasons', () => {
    const judged = all.map(({ family, name, message }) => ({ family, name, reason: reasonOf(() => open(message)) }));
    expect(judged.filter(({ family, reason }) => !(forgeryReasons[family] ?? []).includes(reason))).toEqual([]);
    for (const family of new Set(all.map((one) => one.family))) {
      const [own] = forgeryReasons[family] ?? [];
      expect(judged.some((one) => one.family === family && one.reason === own), family).toBe(true);
    }
    expect(all.length).toBeGreaterThan(350);
  });

  it('are refused when they are damaged at random', () => {
    const honest = [messageOf(formOf(seed)), ...(seed.hasAttributes ? [streamOf(formOf(seed))] : [])];
    const damagedOnes = [...damaged(honest, 600)];
    expect(damagedOnes.filter(({ message }) => reasonOf(() => open(message)) === 'accepted')).toEqual([]);
  });
});

describe('readSignedData', () => {
  it('reads streams only where they are expected', () => {
    expect(reasonOf(() => readSignedData(streamOf(formOf(amazon)), { streamed: false }))).toBe('der.length');
  });

  it('reads nothing beyond its bound', () => {
    expect(reasonOf(() => readSignedData(new Uint8Array(maxSignedDataBytes + 1), { streamed: true }))).toBe('cms.too-large');
    expect(reasonOf(() => readSignedData(new Uint8Array(), { streamed: true }))).toBe('der.truncated');
  });

  it('keeps the content to itself', () => {
    const data = readSignedData(messageOf(formOf(amazon)), { streamed: true });
    expect(Object.keys(data).toSorted()).toEqual(['enclosed', 'issuer', 'serial']);
    expect(isSigner(data, certificate)).toBe(true);
  });
});

describe('verifySignedData', () => {
  const message = messageOf(formOf(amazon));

  it.each([
    ['another serial number', certificateOf(pair, { serial: encodeSmallInteger(4712) }), 'cms.signer'],
    ['another issuer', certificateOf(pair, { issuer: nameOf('clouds') }), 'cms.signer'],
    ['another key under the same name', certificateOf(foreignPair), 'cms.signature'],
    ['a key that signs certificates alone', certificateOf(pair, { extensions: [extension.usage(keyUsage.keyCertSign)] }), 'cms.usage'],
    ['an elliptic key', certificateOf(ecPair()), 'cms.signature'],
    ['a short key', certificateOf(rsaPair(1024)), 'key.rsa.size'],
  ])('refuses a certificate with %s', (_name, other, reason) => {
    expect(reasonOf(() => open(message, other))).toBe(reason);
  });

  it('takes what was read, and nothing that looks like it', () => {
    const data = readSignedData(message, { streamed: true });
    expect(reasonOf(() => verifySignedData({ ...data }, certificate))).toBe('cms.signer');
    // @ts-expect-error: content that was not verified is of another type.
    const made: SignedContent = { bytes: content, signer: certificate };
    expect(made.bytes).toBe(content);
  });

  it('refuses a certificate whose key has parameters it must not have', () => {
    const tampered = { ...certificate, spki: encodeSequence(encodeNull(), encodeOctetString()) };
    expect(reasonOf(() => open(message, tampered))).toBe('der.tag');
  });
});

describe.skipIf(openssl(['version']) === undefined)('OpenSSL (skipped where there is no openssl command)', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'cms-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const file = (name: string, bytes?: Uint8Array | string): string => {
    const full = path.join(folder, name);
    if (bytes !== undefined) writeFileSync(full, bytes);
    return full;
  };
  const pem = file('signer.pem', formatPemCertificates([certificate.der]));
  const key = file('signer.key', pair.privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const document = file('document', content);

  it.each([
    ['a stream as Amazon’s', streamOf(formOf(amazon))],
    ['a stream in segments', streamOf(formOf({ ...amazon, content: Buffer.alloc(2500, 'a') }))],
    ['DER as Amazon’s', messageOf(formOf(amazon))],
    ['DER as Azure’s', messageOf(formOf(azure, { certificates: [certificate.der] }))],
  ])('believes what the tests call honest: %s', (name, message) => {
    const out = file('out');
    openssl(['cms', '-verify', '-inform', 'DER', '-binary', '-noverify', '-certfile', pem, '-out', out, '-in', file('message', message)]);
    expect(readFileSync(out).equals(Buffer.from(open(message).bytes)), name).toBe(true);
  });

  it.each([
    ['with attributes', []],
    ['without attributes', ['-noattr']],
    ['without certificates', ['-nocerts']],
    ['with SHA-512', ['-md', 'sha512']],
  ])('makes messages that are read: %s', (_name, more) => {
    const out = file('made');
    openssl(['cms', '-sign', '-in', document, '-nodetach', '-binary', '-outform', 'DER', '-signer', pem, '-inkey', key, '-out', out, '-md', 'sha256', ...more]);
    expect(Buffer.from(open(readFileSync(out)).bytes).equals(content)).toBe(true);
  });

  it.each([
    ['detached ones', ['-binary', '-outform', 'DER'], 'cms.content'],
    ['ones signed with SHA-1', ['-nodetach', '-binary', '-outform', 'DER', '-md', 'sha1'], 'cms.digest'],
    ['ones named by key identifier', ['-nodetach', '-binary', '-outform', 'DER', '-keyid'], 'cms.version'],
    ['ones signed with PSS', ['-nodetach', '-binary', '-outform', 'DER', '-keyopt', 'rsa_padding_mode:pss'], 'cms.algorithm'],
    ['streams of its own', ['-nodetach', '-binary', '-outform', 'DER', '-stream'], 'cms.streamed'],
  ])('makes messages that are refused: %s', (_name, more, reason) => {
    const out = file('made');
    const signed = parseCertificate(forgeCertificate({ signer: pair.privateKey, spki: pair.spki, subject: nameOf('signer'), issuer: nameOf('cloud'), serial, extensions: [extension.subjectKeyId(pair.spki)] }));
    const own = file('own.pem', formatPemCertificates([signed.der]));
    openssl(['cms', '-sign', '-in', document, '-signer', own, '-inkey', key, '-out', out, ...more]);
    expect(reasonOf(() => open(readFileSync(out)))).toBe(reason);
  });
});
