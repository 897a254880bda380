import { createHash, generateKeyPairSync } from 'node:crypto';

import { describe, expect, it } from 'vitest';

import { encodeBitString, encodeNull, encodeOid, encodeSequence } from '../../../spiffe/x509/der-writer.ts';
import { oid, sameBytes, signatureAlgorithmFrom, signatureSchemes } from '../../../spiffe/x509/names.ts';
import { checkPublicKey, keyIdOf } from '../../../spiffe/x509/public-key.ts';
import { ecPair, ed25519Pair, rsaPair } from '../../help/forge.ts';
import { refusal } from '../refusal.ts';

describe('T-C01 the key policy', () => {
  it.each(['P-256', 'P-384', 'P-521'] as const)('takes any key of %s', (curve) => {
    for (let n = 0; n < 50; n += 1) expect(checkPublicKey(ecPair(curve).spki)).toBe(curve);
  });

  it('takes RSA of 2048 to 8192 bits', () => {
    for (const bits of [2048, 3072]) expect(checkPublicKey(rsaPair(bits).spki)).toBe('RSA');
  });

  it('finds every point off the curve that lies next to one on it', () => {
    const { spki } = ecPair();
    for (let at = spki.length - 64; at < spki.length; at += 1) {
      const moved = Uint8Array.from(spki);
      moved[at] = (moved[at] ?? 0) ^ 1;
      expect(refusal(() => checkPublicKey(moved))).toBe('invalid key.point');
    }
  });

  it('answers for the bytes as they are, whatever the same buffer held before', () => {
    const buffer = Uint8Array.from(ecPair().spki);
    const last = buffer.length - 1;
    expect(checkPublicKey(buffer)).toBe('P-256');
    buffer[last] = (buffer[last] ?? 0) ^ 1;
    for (let n = 0; n < 2; n += 1) expect(refusal(() => checkPublicKey(buffer))).toBe('invalid key.point');
    buffer[last] = (buffer[last] ?? 0) ^ 1;
    expect(checkPublicKey(buffer)).toBe('P-256');
    expect(checkPublicKey(ecPair('P-384').spki)).toBe('P-384');
  });

  it('refuses what is longer than any key it takes before it looks', () => {
    const algorithm = encodeSequence(encodeOid(oid.rsaEncryption), encodeNull());
    const huge = encodeSequence(algorithm, encodeBitString(new Uint8Array(100_000)));
    expect(refusal(() => checkPublicKey(huge))).toBe('unsupported key.rsa.size');
  });

  it('refuses Ed25519 for what we issue', () => {
    expect(refusal(() => checkPublicKey(ed25519Pair().spki))).toBe('unsupported key.algorithm');
  });
});

describe('key identifiers', () => {
  it('are SHA-1 of the key bits [RFC 5280 4.2.1.2]', () => {
    const { spki } = ecPair();
    expect(Buffer.from(keyIdOf(spki))).toEqual(createHash('sha1').update(spki.subarray(-65)).digest());
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey;
    const pkcs1 = rsa.export({ type: 'pkcs1', format: 'der' });
    const expected = createHash('sha1').update(pkcs1).digest();
    expect(Buffer.from(keyIdOf(rsa.export({ type: 'spki', format: 'der' })))).toEqual(expected);
  });
});

describe('signature algorithms', () => {
  it('are known by their whole identifier, parameters included', () => {
    for (const [name, { identifier }] of Object.entries(signatureSchemes)) expect(signatureAlgorithmFrom(identifier)).toBe(name);
    expect(signatureAlgorithmFrom(encodeSequence(encodeOid('1.2.840.10045.4.3.2'), encodeNull()))).toBeUndefined();
    expect(signatureAlgorithmFrom(encodeSequence(encodeOid('1.2.840.113549.1.1.11')))).toBeUndefined();
    expect(signatureAlgorithmFrom(encodeSequence(encodeOid('1.2.840.113549.1.1.5'), encodeNull()))).toBeUndefined();
  });

  it('compare by all bytes and the length', () => {
    expect(sameBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 2))).toBe(true);
    expect(sameBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 3))).toBe(false);
    expect(sameBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 2, 3))).toBe(false);
  });
});
