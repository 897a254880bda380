/**
 * Writes `bundles.json`: bundle documents with what a reader must make of each: the reason of the refusal, or the number
 * of X.509, JWT and WIT authorities, sequence and refresh hint. Same input, same file.
 */
import { createPublicKey } from 'node:crypto';
import { writeFileSync } from 'node:fs';

import type { AuthorityName } from './generate-authorities.ts';
import { publicKeyOf, readAuthorities } from './generate-authorities.ts';
import { formatCases } from './generate-ids.ts';

export interface BundleCase {
  readonly name: string;
  readonly document: string;
  /** `x509=1 jwt=1 wit=0 sequence=0 hint=0`, or kind and reason of the refusal. */
  readonly verdict: string;
}

type Json = Readonly<Record<string, unknown>>;

const authorities = readAuthorities();

function jwkOf(name: AuthorityName): Json {
  return { ...createPublicKey(publicKeyOf(authorities[name]).export({ format: 'pem', type: 'spki' })).export({ format: 'jwk' }) };
}

const x509 = (name: AuthorityName, change: Json = {}): Json => ({
  ...jwkOf(name),
  use: 'x509-svid',
  x5c: [authorities[name].certificate ?? ''],
  ...change,
});
const jwt = (name: AuthorityName, change: Json = {}): Json => ({ ...jwkOf(name), use: 'jwt-svid', kid: name, ...change });
const wit = (name: AuthorityName, change: Json = {}): Json => ({ ...jwkOf(name), use: 'wit-svid', kid: `wit-${name}`, ...change });
const set = (keys: unknown, change: Json = {}): string => JSON.stringify({ keys, ...change });

function seen(x509Count: number, jwtCount: number, sequence = '0', hint = 0, witCount = 0): string {
  return `x509=${x509Count} jwt=${jwtCount} wit=${witCount} sequence=${sequence} hint=${hint}`;
}

export function bundleCases(): readonly BundleCase[] {
  const good = [x509('p256'), jwt('p256')];
  const cert = Buffer.from(authorities.p256.certificate ?? '', 'base64');
  const brokenKey = Buffer.from(cert);
  // The byte that says how the point is written.
  brokenKey[cert.indexOf(Buffer.from(authorities.p256.publicKey, 'base64').subarray(-65))] = 5;
  const pem = `-----BEGIN CERTIFICATE-----\n${cert.toString('base64')}\n-----END CERTIFICATE-----\n`;
  const rows: readonly (readonly [name: string, document: string, verdict: string])[] = [
    ['BUNDLE-01 one of each', set(good), seen(1, 1)],
    ['BUNDLE-02 other members', set(good, { extra: { a: [1] }, refresh_hint: 7 }), seen(1, 1)],
    ['BUNDLE-03 sequence', set(good, { spiffe_sequence: 12 }), seen(1, 1, '12')],
    ['BUNDLE-04 sequence beyond 2^53', `{"keys":[],"spiffe_sequence":9007199254740993}`, seen(0, 0, '9007199254740993')],
    ['BUNDLE-04 greatest sequence', `{"keys":[],"spiffe_sequence":18446744073709551615}`, seen(0, 0, '18446744073709551615')],
    [
      'BUNDLE-04 sequence beyond 64 bits',
      `{"keys":[],"spiffe_sequence":18446744073709551616}`,
      'invalid bundle-document.sequence',
    ],
    ['BUNDLE-03 sequence 0', set([], { spiffe_sequence: 0 }), seen(0, 0)],
    ['BUNDLE-03 negative sequence', set([], { spiffe_sequence: -1 }), 'invalid bundle-document.sequence'],
    ['BUNDLE-03 large negative sequence', `{"keys":[],"spiffe_sequence":-9007199254740993}`, 'invalid bundle-document.sequence'],
    ['BUNDLE-03 fractional sequence', set([], { spiffe_sequence: 1.5 }), 'invalid bundle-document.sequence'],
    ['BUNDLE-03 sequence in a text', set([], { spiffe_sequence: '12' }), 'invalid bundle-document.sequence'],
    ['BUNDLE-03 sequence null', set([], { spiffe_sequence: null }), 'invalid bundle-document.sequence'],
    ['BUNDLE-03 sequence as a power', `{"keys":[],"spiffe_sequence":1e400}`, 'invalid json.number-range'],
    ['BUNDLE-05 refresh hint', set(good, { spiffe_refresh_hint: 300 }), seen(1, 1, '0', 300)],
    ['BUNDLE-05 negative refresh hint', set([], { spiffe_refresh_hint: -1 }), 'invalid bundle-document.refresh-hint'],
    ['BUNDLE-05 fractional refresh hint', set([], { spiffe_refresh_hint: 0.1 }), 'invalid bundle-document.refresh-hint'],
    ['BUNDLE-05 refresh hint in a text', set([], { spiffe_refresh_hint: '300' }), 'invalid bundle-document.refresh-hint'],
    [
      'BUNDLE-05 refresh hint beyond 2^53',
      `{"keys":[],"spiffe_refresh_hint":9007199254740993}`,
      'invalid bundle-document.refresh-hint',
    ],
    ['BUNDLE-07 T-17 empty keys', set([]), seen(0, 0)],
    ['BUNDLE-07 T-17 no keys', '{}', 'invalid bundle-document.keys'],
    ['BUNDLE-07 keys null', set(null), 'invalid bundle-document.keys'],
    ['BUNDLE-07 keys an object', set({}), 'invalid bundle-document.keys'],
    ['BUNDLE-07 keys a text', set('[]'), 'invalid bundle-document.keys'],
    ['BUNDLE-07 a key that is null', set([null]), 'invalid bundle-document.keys'],
    ['BUNDLE-07 a key that is a text', set([...good, 'key']), 'invalid bundle-document.keys'],
    ['BUNDLE-07 a key that is a list', set([[]]), 'invalid bundle-document.keys'],
    [
      'BUNDLE-08 other uses and types among good ones',
      set([{ kty: 'AKP', use: 'jwt-svid' }, ...good, { kty: 'EC', use: 'later-svid' }, {}]),
      seen(1, 1),
    ],
    ['BUNDLE-10 no kty', set([x509('p256', { kty: undefined })]), seen(0, 0)],
    ['BUNDLE-10 kty of lower case', set([jwt('p256', { kty: 'ec' })]), seen(0, 0)],
    ['BUNDLE-10 kty a number', set([jwt('p256', { kty: 1 })]), seen(0, 0)],
    ['BUNDLE-10 kty named like an object member', set([jwt('p256', { kty: 'constructor' })]), seen(0, 0)],
    ['BUNDLE-10 kty oct', set([{ kty: 'oct', k: 'AAAA', use: 'jwt-svid', kid: 'x' }]), seen(0, 0)],
    ['BUNDLE-11 T-18 no use', set([jwt('p256', { use: undefined }), x509('p256', { use: undefined })]), seen(0, 0)],
    ['BUNDLE-11 unknown use', set([jwt('p256', { use: 'sig' })]), seen(0, 0)],
    ['BUNDLE-11 use of upper case', set([jwt('p256', { use: 'JWT-SVID' }), x509('p256', { use: 'X509-SVID' })]), seen(0, 0)],
    ['BUNDLE-11 use a list', set([jwt('p256', { use: ['jwt-svid'] })]), seen(0, 0)],
    ['BUNDLE-12 WIT-33 use wit-svid', set([...good, wit('p384'), wit('rsa2048')]), seen(1, 1, '0', 0, 2)],
    ['BUNDLE-14 WIT-33 the other kind of key for nobody', set([jwt('p256', { use: 'wit-svid' })]), seen(0, 0, '0', 0, 1)],
    ['BUNDLE-11 use of upper case, of a WIT authority', set([wit('p256', { use: 'WIT-SVID' })]), seen(0, 0)],
    ['WIT-31 no kid', set([wit('p256', { kid: undefined })]), 'invalid bundle-document.key-id'],
    ['WIT-31 private key inside', set([wit('p256', { d: 'AAAA' })]), 'invalid jwk.secret'],
    ['WIT-06 T-14 Ed25519', set([wit('ed25519')]), seen(0, 0)],
    ['WIT-32 one kid for a JWT and a WIT authority', set([jwt('p256', { kid: 'k' }), wit('p384', { kid: 'k' })]), 'invalid bundle-document.key-id'],
    ['WIT-32 one key under one kid for both', set([jwt('p256', { kid: 'k' }), wit('p256', { kid: 'k' })]), 'invalid bundle-document.key-id'],
    ['WIT-32 one kid for two WIT authorities', set([wit('p256', { kid: 'k' }), wit('p384', { kid: 'k' })]), 'invalid bundle-document.key-id'],
    ['WIT-32 kids of JWT and WIT that differ in case', set([jwt('p256', { kid: 'k' }), wit('p384', { kid: 'K' })]), seen(0, 1, '0', 0, 1)],
    ['BUNDLE-13 more members', set([jwt('p256', { alg: 'ES256', key_ops: ['verify'], exp: 1 })]), seen(0, 1)],
    ['X509-29 several', set([x509('p256'), x509('p384'), x509('rsa2048'), x509('ed25519')]), seen(4, 0)],
    ['X509-29 one twice', set([x509('p256'), x509('p256')]), seen(1, 0)],
    ['X509-29 an expired one', set([x509('p256-expired')]), seen(1, 0)],
    ['X509-30 with a kid', set([x509('p256', { kid: 'x' })]), seen(1, 0)],
    ['X509-34 no x5c', set([x509('p256', { x5c: undefined })]), seen(0, 0)],
    ['X509-34 empty x5c', set([x509('p256', { x5c: [] })]), seen(0, 0)],
    ['X509-31 x5c a text', set([x509('p256', { x5c: cert.toString('base64') })]), 'invalid bundle-document.certificate'],
    ['X509-31 x5c null', set([x509('p256', { x5c: null })]), 'invalid bundle-document.certificate'],
    ['X509-31 x5c of a number', set([x509('p256', { x5c: [1] })]), 'invalid bundle-document.certificate'],
    ['X509-31 x5c of an empty text', set([x509('p256', { x5c: [''] })]), 'invalid bundle.x509-authority.malformed'],
    [
      'X509-31 T-10 x5c in base64url',
      set([x509('p256', { x5c: [cert.toString('base64url')] })]),
      'invalid bundle-document.certificate',
    ],
    [
      'X509-31 x5c with line ends',
      set([x509('p256', { x5c: [`${cert.toString('base64')}\n`] })]),
      'invalid bundle-document.certificate',
    ],
    ['X509-31 x5c of PEM', set([x509('p256', { x5c: [pem] })]), 'invalid bundle-document.certificate'],
    [
      'X509-31 x5c of encoded PEM',
      set([x509('p256', { x5c: [Buffer.from(pem).toString('base64')] })]),
      'invalid bundle.x509-authority.malformed',
    ],
    [
      'X509-31 x5c of two certificates in one',
      set([x509('p256', { x5c: [Buffer.concat([cert, cert]).toString('base64')] })]),
      'invalid bundle.x509-authority.malformed',
    ],
    [
      'X509-31 x5c with a byte behind',
      set([x509('p256', { x5c: [Buffer.concat([cert, Buffer.of(0)]).toString('base64')] })]),
      'invalid bundle.x509-authority.malformed',
    ],
    [
      'X509-31 x5c cut',
      set([x509('p256', { x5c: [cert.subarray(0, 200).toString('base64')] })]),
      'invalid bundle.x509-authority.malformed',
    ],
    [
      'X509-31 x5c whose key is no point',
      set([x509('p256', { x5c: [brokenKey.toString('base64')] })]),
      'invalid bundle.x509-authority.malformed',
    ],
    [
      'X509-35 two values, only the first counts',
      set([x509('p256', { x5c: [authorities.p256.certificate, 'junk'] })]),
      seen(1, 0),
    ],
    [
      'X509-33 the key of another certificate',
      set([x509('p256', { x5c: [authorities['p256-other'].certificate] })]),
      'invalid bundle-document.key-mismatch',
    ],
    [
      'X509-33 without key members',
      set([{ kty: 'EC', use: 'x509-svid', x5c: [authorities.p256.certificate] }]),
      'invalid bundle-document.key-mismatch',
    ],
    ['X509-33 another kty', set([x509('p256', { kty: 'RSA' })]), 'invalid bundle-document.key-mismatch'],
    ['X509-33 another curve', set([x509('p256', { crv: 'P-384' })]), 'invalid bundle-document.key-mismatch'],
    ['JWT-20 several', set([jwt('p256'), jwt('p384'), jwt('p521'), jwt('rsa2048'), jwt('rsa4096')]), seen(0, 5)],
    ['JWT-20 no kid', set([jwt('p256', { kid: undefined })]), 'invalid bundle-document.key-id'],
    ['JWT-20 empty kid', set([jwt('p256', { kid: '' })]), 'invalid bundle-document.key-id'],
    ['JWT-20 kid a number', set([jwt('p256', { kid: 1 })]), 'invalid bundle-document.key-id'],
    ['JWT-20 kid too long', set([jwt('p256', { kid: 'k'.repeat(1025) })]), 'invalid bundle.jwt-authority.key-id'],
    [
      'WIT-32 one kid for two keys',
      set([jwt('p256', { kid: 'k' }), jwt('p384', { kid: 'k' })]),
      'invalid bundle-document.key-id',
    ],
    ['WIT-32 one key twice', set([jwt('p256'), jwt('p256')]), 'invalid bundle-document.key-id'],
    ['JWT-20 kids that differ in case', set([jwt('p256', { kid: 'k' }), jwt('p384', { kid: 'K' })]), seen(0, 2)],
    ['T-14 Ed25519 for tokens', set([jwt('ed25519')]), seen(0, 0)],
    ['JWT-03 secp256k1', set([jwt('secp256k1')]), seen(0, 0)],
    ['JWT-03 curve named like an object member', set([jwt('p256', { crv: 'constructor' })]), seen(0, 0)],
    ['T-10 RSA of 1024 bits', set([jwt('rsa1024'), jwt('rsa2048')]), seen(0, 1)],
    ['JWT-03 RSA with an even exponent', set([jwt('rsa2048', { e: 'AQAA' })]), seen(0, 0)],
    ['JWT-03 RSA with exponent 1', set([jwt('rsa2048', { e: 'AQ' })]), seen(0, 0)],
    ['JWT-03 RSA without n', set([jwt('rsa2048', { n: undefined })]), 'invalid jwk.malformed'],
    ['JWT-03 RSA with a leading zero', set([jwt('rsa2048', { e: 'AAEAAQ' })]), 'invalid jwk.malformed'],
    ['JWT-03 EC without y', set([jwt('p256', { y: undefined })]), 'invalid jwk.malformed'],
    ['JWT-03 EC without curve', set([jwt('p256', { crv: undefined })]), 'invalid jwk.malformed'],
    ['JWT-03 EC coordinate cut', set([jwt('p256', { x: String(jwkOf('p256')['x']).slice(0, -2) })]), 'invalid jwk.malformed'],
    ['JWT-03 EC coordinate with padding', set([jwt('p256', { x: `${String(jwkOf('p256')['x'])}=` })]), 'invalid jwk.malformed'],
    ['JWT-03 EC coordinate of another key', set([jwt('p256', { x: jwkOf('p256-other')['x'] })]), 'invalid jwk.malformed'],
    ['JWT-03 EC point of zero', set([jwt('p256', { x: 'A'.repeat(43), y: 'A'.repeat(43) })]), 'invalid jwk.malformed'],
    ['JWT-03 EC curve of another size', set([jwt('p256', { crv: 'P-384' })]), 'invalid jwk.malformed'],
    ['private EC key inside', set([jwt('p256', { d: 'AAAA' })]), 'invalid jwk.secret'],
    ['private RSA key inside', set([jwt('rsa2048', { p: 'AAAA' })]), 'invalid jwk.secret'],
    ['private key beside a certificate', set([x509('p256', { d: 'AAAA' })]), 'invalid jwk.secret'],
    ['BUNDLE-20 T-19 keys twice', `{"keys":[],"keys":${JSON.stringify(good)}}`, 'invalid json.repeated-member'],
    ['BUNDLE-20 T-19 use twice', `{"keys":[{"kty":"EC","use":"jwt-svid","use":"x509-svid"}]}`, 'invalid json.repeated-member'],
    ['BUNDLE-20 T-19 a name twice, once escaped', `{"keys":[],"ke\\u0079s":[]}`, 'invalid json.repeated-member'],
    ['not an object', '[]', 'invalid bundle-document.form'],
    ['null', 'null', 'invalid bundle-document.form'],
    ['nothing', '', 'invalid json.syntax'],
    ['HTML', '<!doctype html><html></html>', 'invalid json.syntax'],
    ['PEM', pem, 'invalid json.syntax'],
    ['cut', set(good).slice(0, -1), 'invalid json.syntax'],
    ['more behind', `${set(good)}{}`, 'invalid json.syntax'],
    ['a byte order mark', `\ufeff${set(good)}`, 'invalid json.syntax'],
    ['spaces around', `\r\n\t ${set(good)}\n`, seen(1, 1)],
    ['nested too deeply', `{"keys":[],"x":${'['.repeat(20)}${']'.repeat(20)}}`, 'invalid json.too-deep'],
    ['members of the prototype', `{"__proto__":{"keys":[]}}`, 'invalid bundle-document.keys'],
    ['keys through a prototype of a key', `{"keys":[{"__proto__":${JSON.stringify(jwt('p256'))}}]}`, seen(0, 0)],
    [
      'T-H06 more than 1,000 keys',
      `{"keys":[${Array.from({ length: 1001 }, () => '{}').join(',')}]}`,
      'invalid bundle-document.key-count',
    ],
    ['T-H06 1,000 keys', `{"keys":[${Array.from({ length: 1000 }, () => '{}').join(',')}]}`, seen(0, 0)],
  ];
  return rows.map(([name, document, verdict]) => ({ name, document, verdict }));
}

if (import.meta.main) writeFileSync(new URL('bundles.json', import.meta.url), formatCases(bundleCases()));
