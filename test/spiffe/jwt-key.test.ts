import { createPrivateKey, createPublicKey } from 'node:crypto';

import { CompactSign, compactVerify } from 'jose';
import { describe, expect, it } from 'vitest';

import {
  checkJwtKey,
  isJwtAlgorithm,
  jwtAlgorithmFits,
  jwtAlgorithmOf,
  jwtAlgorithms,
  readJwtKey,
  verifyJwtSignature,
} from '../../spiffe/jwt-key.ts';
import type { AuthorityName } from '../vectors/generate-authorities.ts';
import { privateKeyOf, publicKeyOf, readAuthorities } from '../vectors/generate-authorities.ts';
import { refusal } from './refusal.ts';

const authorities = readAuthorities();
const keys = ['p256', 'p384', 'p521', 'rsa2048', 'rsa4096'] as const satisfies readonly AuthorityName[];
const rsa = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'];
const fitting: Readonly<Record<string, readonly string[]>> = {
  p256: ['ES256'],
  p384: ['ES384'],
  p521: ['ES512'],
  rsa2048: rsa,
  rsa4096: rsa,
  rsa1024: [],
  ed25519: [],
  secp256k1: [],
};

it.each(Object.entries(fitting))('JWT-03: %s does %j and no other', (name, expected) => {
  const key = publicKeyOf(authorities[name as AuthorityName]);
  expect(jwtAlgorithms.filter((algorithm) => jwtAlgorithmFits(algorithm, key)).toSorted()).toEqual([...expected].toSorted());
  expect(refusal(() => checkJwtKey(key))).toBe(expected.length > 0 ? 'accepted' : 'unsupported jwt-key.unsupported');
});

it.each([
  ['p256', 'ES256'],
  ['p384', 'ES384'],
  ['p521', 'ES512'],
  ['rsa2048', 'RS256'],
] as const)('%s signs with %s', (name, expected) => {
  expect(jwtAlgorithmOf(publicKeyOf(authorities[name]))).toBe(expected);
});

it('no algorithm for a key that none fits', () => {
  expect(refusal(() => jwtAlgorithmOf(publicKeyOf(authorities.ed25519)))).toBe('unsupported jwt-key.unsupported');
});

it.each(['none', 'HS256', 'EdDSA', 'es256', 'constructor', '', null, 1, ['ES256']])('JWT-04: %j is not allowed', (text) => {
  expect(isJwtAlgorithm(text)).toBe(false);
});

describe('against another implementation', () => {
  const pairs = keys.flatMap((name) => (fitting[name] ?? []).map((algorithm) => [name, algorithm] as const));

  it.each(pairs)('T-C03: %s with %s', async (name, algorithm) => {
    if (!isJwtAlgorithm(algorithm)) throw new Error('not an algorithm');
    const pem = privateKeyOf(authorities[name]).export({ format: 'pem', type: 'pkcs8' });
    const token = await new CompactSign(Buffer.from('{}')).setProtectedHeader({ alg: algorithm }).sign(createPrivateKey(pem));
    const key = readJwtKey(Buffer.from(authorities[name].publicKey, 'base64'));
    await expect(compactVerify(token, createPublicKey(pem))).resolves.toBeDefined();
    const [header = '', payload = '', signature = ''] = token.split('.');
    const bytes = Buffer.from(signature, 'base64url');
    expect(verifyJwtSignature(algorithm, key, `${header}.${payload}`, bytes)).toBe(true);
    expect(verifyJwtSignature(algorithm, key, `${header}.${payload}A`, bytes)).toBe(false);
    for (const other of keys.filter((k) => k !== name)) {
      expect(verifyJwtSignature(algorithm, publicKeyOf(authorities[other]), `${header}.${payload}`, bytes)).toBe(false);
    }
  });
});

it('refuses a compressed point, which is another text for the same key', () => {
  const spki = Buffer.from(authorities.p256.publicKey, 'base64');
  const point = spki.subarray(-65);
  const compressed = Buffer.concat([Buffer.of(2 + ((point[64] ?? 0) & 1)), point.subarray(1, 33)]);
  const header = Buffer.from('3039301306072a8648ce3d020106082a8648ce3d030107032200', 'hex');
  expect(refusal(() => readJwtKey(Buffer.concat([header, compressed])))).toBe('invalid jwt-key.malformed');
});
