/**
 * Writes `authorities.json`: keys and certificates that the other vectors are made with, good ones and wrong ones. They
 * are random, so running it means running the generators of `bundles.json` and `jwts.json` after it. Of no use but here.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, sign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';

import {
  encode,
  encodeBitString,
  encodeBoolean,
  encodeDirectoryString,
  encodeExplicit,
  encodeNull,
  encodeOctetString,
  encodeOid,
  encodeSequence,
  encodeSet,
  encodeSmallInteger,
  encodeTime,
} from '../../spiffe/x509/der-writer.ts';

/** All values base64: PKCS#8, SubjectPublicKeyInfo and certificate, DER. */
export interface TestAuthority {
  readonly privateKey: string;
  readonly publicKey: string;
  readonly certificate?: string;
}

export type AuthorityName =
  | 'p256'
  | 'p256-other'
  | 'p256-foreign'
  | 'p256-expired'
  | 'p384'
  | 'p521'
  | 'rsa2048'
  | 'rsa4096'
  | 'rsa1024'
  | 'ed25519'
  | 'secp256k1';

const file = new URL('authorities.json', import.meta.url);

export function readAuthorities(): Readonly<Record<AuthorityName, TestAuthority>> {
  return JSON.parse(readFileSync(file, 'utf8')) as Readonly<Record<AuthorityName, TestAuthority>>;
}

export function privateKeyOf(authority: TestAuthority): KeyObject {
  return createPrivateKey({ key: Buffer.from(authority.privateKey, 'base64'), format: 'der', type: 'pkcs8' });
}

export function publicKeyOf(authority: TestAuthority): KeyObject {
  return createPublicKey(privateKeyOf(authority));
}

export function certificateOf(authority: TestAuthority): Uint8Array {
  return Buffer.from(authority.certificate ?? '', 'base64');
}

const ec = (namedCurve: string): KeyObject => generateKeyPairSync('ec', { namedCurve }).privateKey;
const rsa = (modulusLength: number): KeyObject => generateKeyPairSync('rsa', { modulusLength }).privateKey;

/** An X.509 authority as plain as may be: basic constraints, key usage, its trust domain's ID. */
function selfSigned(key: KeyObject, trustDomain: string, notAfter: string): string {
  const identifiers: Readonly<Record<string, Uint8Array>> = {
    ec: encodeSequence(encodeOid('1.2.840.10045.4.3.2')),
    rsa: encodeSequence(encodeOid('1.2.840.113549.1.1.11'), encodeNull()),
    ed25519: encodeSequence(encodeOid('1.3.101.112')),
  };
  const algorithm = identifiers[key.asymmetricKeyType ?? ''] ?? new Uint8Array();
  const name = encodeSequence(encodeSet(encodeSequence(encodeOid('2.5.4.10'), encodeDirectoryString('SPIFFE'))));
  const uri = encode(0x86, Buffer.from(`spiffe://${trustDomain}`));
  const extension = (id: string, value: Uint8Array): Uint8Array =>
    encodeSequence(encodeOid(id), encodeBoolean(true), encodeOctetString(value));
  const body = encodeSequence(
    encodeExplicit(0, encodeSmallInteger(2)),
    encodeSmallInteger(1),
    algorithm,
    name,
    encodeSequence(encodeTime(Date.parse('2000-01-01T00:00:00Z')), encodeTime(Date.parse(notAfter))),
    name,
    createPublicKey(key).export({ format: 'der', type: 'spki' }),
    encodeExplicit(
      3,
      encodeSequence(
        extension('2.5.29.19', encodeSequence(encodeBoolean(true))),
        extension('2.5.29.15', encode(0x03, Uint8Array.of(1, 0b0000_0110))),
        extension('2.5.29.17', encodeSequence(uri)),
      ),
    ),
  );
  const signature = sign(key.asymmetricKeyType === 'ed25519' ? undefined : 'sha256', body, key);
  return Buffer.from(encodeSequence(body, algorithm, encodeBitString(signature))).toString('base64');
}

if (import.meta.main) {
  const far = '2099-01-01T00:00:00Z';
  const plan: readonly (readonly [AuthorityName, KeyObject, string?, string?])[] = [
    ['p256', ec('P-256'), 'example.org', far],
    ['p256-other', ec('P-256'), 'example.org', far],
    ['p256-foreign', ec('P-256'), 'other.org', far],
    ['p256-expired', ec('P-256'), 'example.org', '2001-01-01T00:00:00Z'],
    ['p384', ec('P-384'), 'example.org', far],
    ['p521', ec('P-521')],
    ['rsa2048', rsa(2048), 'example.org', far],
    ['rsa4096', rsa(4096)],
    ['rsa1024', rsa(1024)],
    ['ed25519', generateKeyPairSync('ed25519').privateKey, 'example.org', far],
    ['secp256k1', ec('secp256k1')],
  ];
  const made: Record<string, TestAuthority> = {};
  for (const [name, key, trustDomain, notAfter] of plan) {
    made[name] = {
      privateKey: key.export({ format: 'der', type: 'pkcs8' }).toString('base64'),
      publicKey: createPublicKey(key).export({ format: 'der', type: 'spki' }).toString('base64'),
      ...(trustDomain === undefined || notAfter === undefined ? {} : { certificate: selfSigned(key, trustDomain, notAfter) }),
    };
  }
  writeFileSync(file, `${JSON.stringify(made, undefined, 1)}\n`);
}
