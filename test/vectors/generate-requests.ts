/**
 * Writes `requests.json`: certification requests with the verdict each deserves, by construction of the request and never by
 * asking the parser. Run it with node to write the file anew; keys are fresh every time, so every line changes.
 */
import { checkPrimeSync, generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import {
  encode,
  encodeAscii,
  encodeBitString,
  encodeNull,
  encodeOctetString,
  encodeOid,
  encodeSequence,
  encodeSet,
  encodeSmallInteger,
  encodeUnsigned,
} from '../../spiffe/x509/der-writer.ts';
import { contextTag, derTag } from '../../spiffe/x509/der.ts';
import { encodeExtension, encodeNames } from '../../spiffe/x509/encoded.ts';
import { keyUsage, oid, signatureSchemes } from '../../spiffe/x509/names.ts';
import {
  asking,
  attribute,
  ecPair,
  ed25519Pair,
  extension,
  forgeCertificate,
  forgeRequest,
  join,
  nameOf,
  pairFrom,
  rsaPair,
  type Pair,
  type RequestForm,
} from '../help/forge.ts';

export interface RequestCase {
  readonly name: string;
  /** Base64 of the DER. */
  readonly der: string;
  /** `accept`, or the reason of the refusal by reading the request or by its proof of possession. */
  readonly verdict: string;
  /** What an accepted request asks for, where that is the point. */
  readonly asks?: { readonly uris?: readonly string[]; readonly dnsNames?: readonly string[]; readonly authority?: boolean };
}

const web = 'spiffe://example.org/web';
const p256 = ecPair();
const rsa = rsaPair();
const requestWith = (form: Partial<RequestForm>, pair: Pair = p256): Uint8Array =>
  forgeRequest({ signer: pair.privateKey, spki: pair.spki, ...form });
/** A key nobody can sign with is signed for by another: it is refused before anyone looks. */
const requestFor = (spki: Uint8Array): Uint8Array => requestWith({ spki });
const asked = (...extensions: readonly Uint8Array[]): Uint8Array => requestWith({ attributes: [asking(...extensions)] });
const text = (value: string): Uint8Array => Buffer.from(value, 'utf8');
const hex = (value: string): Uint8Array => Buffer.from(value, 'hex');
const tail = hex('0500');

/** Replaces the only occurrence of `from`. */
function replaced(der: Uint8Array, from: Uint8Array, to: Uint8Array): Uint8Array {
  const at = Buffer.from(der).indexOf(from);
  if (at < 0) throw new Error('nothing to replace');
  return join(der.subarray(0, at), to, der.subarray(at + from.length));
}

function octetsOf(number: bigint): Uint8Array {
  const digits = number.toString(16);
  return hex(digits.length % 2 === 0 ? digits : `0${digits}`);
}

const rsaIdentifier = encodeSequence(encodeOid(oid.rsaEncryption), encodeNull());
const rsaKey = (modulus: Uint8Array, exponent: Uint8Array, ...more: readonly Uint8Array[]): Uint8Array =>
  encodeSequence(rsaIdentifier, encodeBitString(encodeSequence(modulus, exponent, ...more)));
const rsaSpki = (modulus: bigint, exponent = 65537n): Uint8Array =>
  rsaKey(encodeUnsigned(octetsOf(modulus)), encodeUnsigned(octetsOf(exponent)));

function ecSpki(curve: string, point: Uint8Array): Uint8Array {
  return encodeSequence(encodeSequence(encodeOid(oid.ecPublicKey), encodeOid(curve)), encodeBitString(point));
}

function randomOdd(bits: number): bigint {
  return BigInt(`0x${randomBytes(bits / 8).toString('hex')}`) | (3n << BigInt(bits - 2)) | 1n;
}

function primeFrom(candidate: () => bigint): bigint {
  for (;;) {
    const number = candidate();
    if (checkPrimeSync(number)) return number;
  }
}

const smallPrimes = Array.from(
  { length: 750 },
  (_, n) => BigInt(n + 2),
).filter((n, _, all) => all.every((d) => d >= n || n % d !== 0n));

/** No factor below 752, and no prime anybody knows: good enough to be refused for another reason. */
function oddModulus(bits: number): bigint {
  for (;;) {
    const number = randomOdd(bits);
    if (smallPrimes.every((prime) => number % prime !== 0n)) return number;
  }
}

/** Primes as the broken Infineon library made them: k·M + (65537^a mod M). */
function rocaModulus(): bigint {
  const m = smallPrimes.filter((prime) => prime <= 167n).reduce((product, prime) => product * prime, 1n);
  const prime = (): bigint =>
    primeFrom(() => {
      let power = 1n;
      for (let a = randomBytes(1)[0] ?? 0; a >= 0; a -= 1) power = (power * 65537n) % m;
      return (randomOdd(1024) / m) * m + power;
    });
  for (;;) {
    const modulus = prime() * prime();
    if (modulus.toString(2).length === 2048) return modulus;
  }
}

function closePrimesModulus(): bigint {
  const p = primeFrom(() => randomOdd(1024));
  let q = p + 2n;
  while (!checkPrimeSync(q)) q += 2n;
  return p * q;
}

function rsaFromJwk(bits: number, exponent: number): Pair {
  return pairFrom(generateKeyPairSync('rsa', { modulusLength: bits, publicExponent: exponent }).privateKey);
}

function* accepted(): Generator<readonly [string, Uint8Array, RequestCase['asks']?]> {
  yield ['P-256', requestWith({})];
  yield ['P-384', requestWith({}, ecPair('P-384'))];
  yield ['P-521', requestWith({}, ecPair('P-521'))];
  yield ['RSA 2048', requestWith({}, rsa)];
  yield ['RSA 3072', requestWith({}, rsaPair(3072))];
  yield ['RSA 2056, a multiple of 8', requestWith({}, rsaPair(2056))];
  yield ['RSA with exponent 65539', requestWith({}, rsaFromJwk(2048, 65539))];
  for (const digest of ['sha384', 'sha512'] as const) {
    const ec = signatureSchemes[`ecdsa-${digest}`].identifier;
    yield [`P-256 signed with ${digest}`, requestWith({ digest, algorithm: ec })];
    yield [`RSA signed with ${digest}`, requestWith({ digest, algorithm: signatureSchemes[`rsa-${digest}`].identifier }, rsa)];
  }
  yield ['empty subject', requestWith({ subject: nameOf('') })];
  yield ['subject in UTF-8', requestWith({ subject: nameOf('bücher.example') })];
  yield ['subject in punycode', requestWith({ subject: nameOf('xn--bcher-kva.example') })];
  yield ['subject that looks like an ID', requestWith({ subject: nameOf('spiffe://example.org/spire/server') })];
  yield ['subject with a NUL', requestWith({ subject: nameOf('web\0.example') })];
  yield ['subject of 60 kB', requestWith({ subject: nameOf('x'.repeat(60_000)) })];
  yield [
    'challenge password',
    requestWith({ attributes: [attribute('1.2.840.113549.1.9.7', encodeAscii(derTag.printableString, 'x'))] }),
  ];
  yield ['one URI', asked(extension.names([], [web])), { uris: [web], dnsNames: [] }];
  yield ['DNS names', asked(extension.names(['b.example', 'a.example'], [])), { uris: [], dnsNames: ['b.example', 'a.example'] }];
  yield ['two URIs', asked(extension.names([], [web, 'spiffe://example.org/db'])), { uris: [web, 'spiffe://example.org/db'] }];
  yield [
    'URI of another trust domain',
    asked(extension.names([], ['spiffe://other.org/web'])),
    { uris: ['spiffe://other.org/web'] },
  ];
  yield ['URI of the server', asked(extension.names([], ['spiffe://example.org/spire/server']))];
  yield [
    'URI with dot segments',
    asked(extension.names([], ['spiffe://example.org/a/../b'])),
    { uris: ['spiffe://example.org/a/../b'] },
  ];
  yield ['URI that is no SPIFFE ID', asked(extension.names([], ['https://example.org/'])), { uris: ['https://example.org/'] }];
  yield ['URI in capitals', asked(extension.names([], ['SPIFFE://EXAMPLE.ORG/web'])), { uris: ['SPIFFE://EXAMPLE.ORG/web'] }];
  yield ['empty URI', asked(extension.names([], [''])), { uris: [''] }];
  yield ['wildcard DNS name', asked(extension.names(['*.example.org'], [])), { dnsNames: ['*.example.org'] }];
  yield ['1,024 names', asked(extension.names(Array.from({ length: 1024 }, (_, n) => `h${n}.example`), []))];
  yield ['IP address', asked(encodeExtension(oid.subjectAltName, false, encodeSequence(encode(contextTag(7), hex('7f000001')))))];
  yield [
    'e-mail address',
    asked(encodeExtension(oid.subjectAltName, false, encodeSequence(encodeAscii(contextTag(1), 'a@b.c')))),
  ];
  yield [
    'directory name',
    asked(encodeExtension(oid.subjectAltName, false, encodeSequence(encode(contextTag(4, true), nameOf('x'))))),
  ];
  yield ['cA asked', asked(extension.basic(true), extension.usage(keyUsage.keyCertSign)), { authority: true }];
  yield ['cA with a path length asked', asked(extension.pathLen(3)), { authority: true }];
  yield ['every key usage asked', asked(extension.usage(0x1ff)), { authority: false }];
  yield ['unknown critical extension asked', asked(encodeExtension('1.3.6.1.4.1.99999.1', true, encodeNull()))];
  yield ['signed twice with the same key', requestWith({})];
}

function* malformed(): Generator<readonly [string, Uint8Array, string]> {
  const good = requestWith({ attributes: [asking(extension.names(['web.example'], [web]))] });
  yield ['nothing', hex(''), 'der.truncated'];
  yield ['one byte', hex('30'), 'der.truncated'];
  yield ['empty sequence', hex('3000'), 'der.truncated'];
  for (const length of [2, 3, 10, 40, 100, good.length - 64, good.length - 2, good.length - 1]) {
    yield [`cut to ${length < 101 ? length : `all but ${good.length - length}`}`, good.subarray(0, length), 'der.truncated'];
  }
  yield ['trailing zero byte', join(good, hex('00')), 'der.trailing'];
  yield ['trailing null', join(good, tail), 'der.trailing'];
  yield ['followed by itself', join(good, good), 'der.trailing'];
  yield ['PEM', text(`-----BEGIN CERTIFICATE REQUEST-----\n${Buffer.from(good).toString('base64')}\n`), 'der.tag'];
  yield ['base64', text(Buffer.from(good).toString('base64')), 'der.tag'];
  yield ['JSON', text('{"csr":true}'), 'der.tag'];
  yield ['zeros', new Uint8Array(300), 'der.tag'];
  yield ['ones', new Uint8Array(300).fill(0xff), 'der.tag'];
  yield ['a public key', p256.spki, 'der.tag'];
  yield ['a private key', p256.privateKey.export({ type: 'pkcs8', format: 'der' }), 'der.tag'];
  yield ['a certificate', forgeCertificate({ signer: p256.privateKey, spki: p256.spki }), 'der.tag'];
  yield ['66 kB subject', requestWith({ subject: nameOf('x'.repeat(66_000)) }), 'request.length'];
  yield ['10,000 names', asked(extension.names(Array.from({ length: 10_000 }, (_, n) => `h${n}.example`), [])), 'request.length'];
  yield [
    '1,025 names',
    asked(extension.names(Array.from({ length: 1025 }, (_, n) => `h${n}.example`), [])),
    'extension.too-many-names',
  ];
  const content = good.subarray(4);
  yield ['BER: indefinite length', join(hex('3080'), content, hex('0000')), 'der.length'];
  yield ['BER: length with a leading zero', join(hex('308300'), good.subarray(2, 4), content), 'der.length'];
  yield ['BER: short length in long form', requestWith({ version: hex('02810100') }), 'der.length'];
  yield ['length of five octets', join(hex('308500'), hex('000000'), good.subarray(3)), 'der.length'];
  yield ['length of 4 GB', join(hex('3084ffffffff'), content), 'der.truncated'];
  yield ['tag of several octets', join(hex('3f30'), good), 'der.tag'];
  yield ['set for sequence', join(hex('31'), good.subarray(1)), 'der.tag'];
  yield ['version with a leading zero', requestWith({ version: hex('02020000') }), 'der.integer'];
  yield ['version without octets', requestWith({ version: hex('0200') }), 'der.integer'];
  yield ['version 2', requestWith({ version: encodeSmallInteger(1) }), 'request.version'];
  yield ['version 3', requestWith({ version: encodeSmallInteger(2) }), 'request.version'];
  yield ['version -1', requestWith({ version: hex('0201ff') }), 'der.integer'];
  yield ['version as a boolean', requestWith({ version: hex('010100') }), 'der.tag'];
  yield ['bytes after the attributes', requestWith({ tail }), 'der.trailing'];
  yield ['no attributes', requestWith({ attributes: hex('') }), 'der.truncated'];
  yield ['attributes under another tag', requestWith({ attributes: hex('a100') }), 'der.tag'];
  yield ['attributes as a set', requestWith({ attributes: hex('3100') }), 'der.tag'];
  yield ['subject as a string', requestWith({ subject: encodeAscii(derTag.utf8String, 'web') }), 'der.tag'];
  yield ['subject with broken DER inside', requestWith({ subject: hex('30043102307f') }), 'der.truncated'];
  yield ['subject nested 100 deep', requestWith({ subject: nested(100) }), 'der.depth'];
  yield ['subject with a constructed string', requestWith({ subject: encodeSequence(encodeSet(hex('2c030c0178'))) }), 'der.tag'];
  yield ['subject with a boolean of 01', requestWith({ subject: encodeSequence(encodeSet(hex('010101'))) }), 'der.boolean'];
  yield [
    'subject with an identifier that starts in 80',
    requestWith({ subject: encodeSequence(hex('0603550480'), hex('06038001ff')) }),
    'der.oid',
  ];
  yield ['signature as an octet string', requestWith({ signatureField: encodeOctetString(new Uint8Array(70)) }), 'der.tag'];
  yield ['signature with unused bits', requestWith({ signatureField: hex('03020780') }), 'der.bit-string'];
  yield ['signature with unused bits that are set', requestWith({ signatureField: hex('030207ff') }), 'der.bit-string'];
  yield ['signature without the count of unused bits', requestWith({ signatureField: hex('0300') }), 'der.bit-string'];
}

function nested(depth: number): Uint8Array {
  let value: Uint8Array = hex('0500');
  for (let i = 0; i < depth; i += 1) value = encodeSequence(value);
  return value;
}

function* attributes(): Generator<readonly [string, Uint8Array, string]> {
  const names = extension.names([], [web]);
  const general = (...parts: readonly Uint8Array[]): Uint8Array =>
    asked(encodeExtension(oid.subjectAltName, false, encodeSequence(...parts)));
  yield [
    'attribute twice',
    requestWith({ attributes: [attribute('1.2.3', hex('0500')), attribute('1.2.3', hex('0500'))] }),
    'request.attribute.duplicate',
  ];
  yield [
    'extensions asked for twice',
    requestWith({ attributes: [asking(names), asking(names)] }),
    'request.attribute.duplicate',
  ];
  const two = attribute(oid.extensionRequest, encodeSequence(names), encodeSequence(names));
  yield ['two values of extensions', requestWith({ attributes: [two] }), 'request.attribute.values'];
  yield ['attribute without a value', requestWith({ attributes: [attribute(oid.extensionRequest)] }), 'der.truncated'];
  yield ['extensions as a set', requestWith({ attributes: [attribute(oid.extensionRequest, encodeSet(names))] }), 'der.tag'];
  yield [
    'bytes in an attribute after its values',
    requestWith({ attributes: [encodeSequence(encodeOid('1.2.3'), encodeSet(tail), tail)] }),
    'der.trailing',
  ];
  yield ['unknown attribute with broken DER', requestWith({ attributes: [attribute('1.2.3', hex('0101ee'))] }), 'der.boolean'];
  yield ['empty list of extensions', asked(), 'extension.none'];
  yield ['names twice', asked(names, names), 'extension.duplicate'];
  yield [
    'unknown extension twice',
    asked(encodeExtension('1.2.3', false, tail), encodeExtension('1.2.3', false, tail)),
    'extension.duplicate',
  ];
  yield [
    '65 extensions',
    asked(...Array.from({ length: 65 }, (_, n) => encodeExtension(`1.2.3.${n}`, false, tail))),
    'extension.too-many',
  ];
  const flagged = (flag: string): Uint8Array =>
    asked(encodeSequence(encodeOid(oid.subjectAltName), hex(flag), encodeOctetString(encodeNames([], [web]))));
  yield ['BER: critical as 01', flagged('010101'), 'der.boolean'];
  yield ['BER: critical false written out', flagged('010100'), 'extension.default'];
  yield ['critical of two octets', flagged('0102ffff'), 'der.boolean'];
  yield [
    'bytes in an extension after its value',
    asked(encodeSequence(encodeOid('1.2.3'), encodeOctetString(tail), tail)),
    'der.trailing',
  ];
  yield ['names as an octet string', asked(encodeExtension(oid.subjectAltName, false, hex('0400'))), 'der.tag'];
  yield ['no name', asked(encodeExtension(oid.subjectAltName, false, hex('3000'))), 'extension.empty'];
  yield [
    'bytes after the names',
    asked(encodeExtension(oid.subjectAltName, false, join(encodeNames([], [web]), tail))),
    'der.trailing',
  ];
  yield ['NUL in a URI', general(encode(contextTag(6), text(`${web}\0.evil`))), 'der.text'];
  yield ['NUL in a DNS name', general(encode(contextTag(2), text('web\0.evil'))), 'der.text'];
  yield ['newline in a URI', general(encode(contextTag(6), text(`${web}\n`))), 'der.text'];
  yield ['DEL in a DNS name', general(encode(contextTag(2), text('web\x7f'))), 'der.text'];
  yield ['UTF-8 in a DNS name', general(encode(contextTag(2), text('bücher.example'))), 'der.text'];
  yield ['high bytes in a URI', general(encode(contextTag(6), hex('737069666665ff'))), 'der.text'];
  yield ['constructed URI', general(encode(contextTag(6, true), encodeAscii(derTag.ia5String, web))), 'der.tag'];
  yield ['name of an unknown form', general(encode(contextTag(9), text('x'))), 'der.tag'];
  yield ['name with a universal tag', general(encodeAscii(derTag.ia5String, web)), 'der.tag'];
  yield ['directory name with broken DER', general(encode(contextTag(4, true), hex('307f'))), 'der.truncated'];
  yield ['key usage with trailing zeros', asked(encodeExtension(oid.keyUsage, true, hex('03020080'))), 'der.bit-string'];
  yield ['key usage of 32 bits', asked(encodeExtension(oid.keyUsage, true, hex('03050080000001'))), 'der.bit-string'];
  yield ['cA false written out', asked(encodeExtension(oid.basicConstraints, true, hex('3003010100'))), 'extension.default'];
  yield ['path length for a leaf', asked(encodeExtension(oid.basicConstraints, true, hex('3003020100'))), 'extension.path-len'];
  yield ['negative path length', asked(encodeExtension(oid.basicConstraints, true, hex('30060101ff0201ff'))), 'der.integer'];
  yield [
    'bytes in the basic constraints',
    asked(encodeExtension(oid.basicConstraints, true, hex('30050101ff0500'))),
    'der.trailing',
  ];
  yield ['no extended usage', asked(encodeExtension(oid.extKeyUsage, false, hex('3000'))), 'extension.empty'];
}

function* keys(): Generator<readonly [string, Uint8Array, string]> {
  for (const bits of [512, 1024, 1536, 2040, 8200, 16_384]) yield [
    `RSA ${bits}`,
    requestFor(rsaSpki(oddModulus(bits))),
    'key.rsa.size',
  ];
  const small = rsaPair(1024);
  yield ['RSA 1024, properly signed', requestWith({}, small), 'key.rsa.size'];
  yield ['RSA 2049, no multiple of 8', requestFor(rsaSpki((oddModulus(2048) << 1n) | 1n)), 'key.rsa.size'];
  yield ['RSA with modulus 0', requestFor(rsaSpki(0n)), 'key.rsa.size'];
  const modulus = oddModulus(2048);
  for (const exponent of [0n, 1n, 3n, 17n, 257n, 65535n, 65536n, 65538n, 2n ** 31n + 11n, 2n ** 64n + 1n, modulus - 2n]) {
    const name = exponent > 2n ** 65n ? 'as large as the modulus' : exponent;
    yield [`RSA with exponent ${name}`, requestFor(rsaSpki(modulus, exponent)), 'key.rsa.exponent'];
  }
  yield ['RSA with exponent 3, properly signed', requestWith({}, rsaFromJwk(2048, 3)), 'key.rsa.exponent'];
  for (const prime of [2n, 3n, 5n, 127n, 751n]) {
    yield [`RSA modulus divisible by ${prime}`, requestFor(rsaSpki(multipleOf(prime))), 'key.rsa.small-factor'];
  }
  yield ['RSA with the ROCA weakness', requestFor(rsaSpki(rocaModulus())), 'key.rsa.roca'];
  yield ['RSA with close primes', requestFor(rsaSpki(closePrimesModulus())), 'key.rsa.close-primes'];
  yield ['RSA with a square as modulus', requestFor(rsaSpki(squareModulus())), 'key.rsa.close-primes'];
  const right = encodeUnsigned(octetsOf(modulus));
  const exponent = encodeUnsigned(octetsOf(65537n));
  yield [
    'RSA with a negative modulus',
    requestFor(rsaKey(encode(derTag.integer, octetsOf(modulus)), exponent)),
    'key.rsa.negative',
  ];
  yield ['RSA with a negative exponent', requestFor(rsaKey(right, hex('0203ff0001'))), 'key.rsa.negative'];
  yield [
    'RSA modulus with a leading zero',
    requestFor(rsaKey(encode(derTag.integer, hex('0000'), octetsOf(modulus)), exponent)),
    'der.integer',
  ];
  yield ['RSA key with a third number', requestFor(rsaKey(right, exponent, exponent)), 'der.trailing'];
  yield ['RSA key without an exponent', requestFor(rsaKey(right, hex(''))), 'der.truncated'];
  const bare = (identifier: Uint8Array): Uint8Array =>
    requestFor(encodeSequence(identifier, encodeBitString(encodeSequence(right, exponent))));
  yield ['RSA without parameters', bare(encodeSequence(encodeOid(oid.rsaEncryption))), 'key.parameters'];
  yield [
    'RSA with a curve',
    bare(encodeSequence(encodeOid(oid.rsaEncryption), encodeOid('1.2.840.10045.3.1.7'))),
    'key.parameters',
  ];
  yield [
    'RSA with a null that is not empty',
    bare(encodeSequence(encodeOid(oid.rsaEncryption), hex('050100'))),
    'key.parameters',
  ];
  yield [
    'RSA-PSS key',
    requestFor(generateKeyPairSync('rsa-pss', { modulusLength: 2048 }).publicKey.export({ type: 'spki', format: 'der' })),
    'key.algorithm',
  ];
  yield ['Ed25519', requestWith({}, ed25519Pair()), 'key.algorithm'];
  yield ['Ed448', requestFor(generateKeyPairSync('ed448').publicKey.export({ type: 'spki', format: 'der' })), 'key.algorithm'];
  yield ['X25519', requestFor(generateKeyPairSync('x25519').publicKey.export({ type: 'spki', format: 'der' })), 'key.algorithm'];
  yield [
    'DSA',
    requestFor(encodeSequence(encodeSequence(encodeOid('1.2.840.10040.4.1')), encodeBitString(encodeUnsigned(hex('05'))))),
    'key.algorithm',
  ];
  yield [
    'key of an unknown kind',
    requestFor(encodeSequence(encodeSequence(encodeOid('1.2.3.4')), encodeBitString(hex('00')))),
    'key.algorithm',
  ];
  for (const curve of ['secp224r1', 'secp256k1', 'prime192v1', 'brainpoolP256r1', 'sect283r1']) {
    yield [curve, requestWith({}, ecPair(curve)), 'key.curve'];
  }
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256', paramEncoding: 'explicit' });
  yield ['EC with explicit parameters', requestFor(publicKey.export({ type: 'spki', format: 'der' })), 'key.parameters'];
  const point = p256.spki.subarray(-65);
  yield [
    'EC without a curve',
    requestFor(encodeSequence(encodeSequence(encodeOid(oid.ecPublicKey)), encodeBitString(point))),
    'key.parameters',
  ];
  yield [
    'EC with an implied curve',
    requestFor(encodeSequence(encodeSequence(encodeOid(oid.ecPublicKey), encodeNull()), encodeBitString(point))),
    'key.parameters',
  ];
  yield* points(point);
  yield ['bytes after the key', requestFor(encodeSequence(p256.spki.subarray(2), tail)), 'der.trailing'];
  yield [
    'bytes after the curve',
    requestFor(
      encodeSequence(encodeSequence(encodeOid(oid.ecPublicKey), encodeOid('1.2.840.10045.3.1.7'), tail), encodeBitString(point)),
    ),
    'der.trailing',
  ];
  yield [
    'key with unused bits',
    requestFor(encodeSequence(p256.spki.subarray(2, 23), hex('034207'), new Uint8Array(65))),
    'der.bit-string',
  ];
  yield ['key without octets', requestFor(encodeSequence(p256.spki.subarray(2, 23), hex('030100'))), 'key.point'];
}

function* points(point: Uint8Array): Generator<readonly [string, Uint8Array, string]> {
  const curve = '1.2.840.10045.3.1.7';
  const prime = 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n;
  const x = BigInt(`0x${Buffer.from(point.subarray(1, 33)).toString('hex')}`);
  const wide = (number: bigint): Uint8Array => hex(number.toString(16).padStart(64, '0'));
  const of = (first: string, ...rest: readonly Uint8Array[]): Uint8Array => requestFor(ecSpki(curve, join(hex(first), ...rest)));
  const y = point.subarray(33);
  const moved = Uint8Array.from(point);
  moved[64] = (moved[64] ?? 0) ^ 1;
  yield ['point off the curve', requestFor(ecSpki(curve, moved)), 'key.point'];
  yield ['point at infinity', of('00'), 'key.point'];
  yield ['point of zeros', of('04', new Uint8Array(64)), 'key.point'];
  yield ['point of ones', of('04', new Uint8Array(64).fill(0xff)), 'key.point'];
  yield ['coordinate equal to the prime', of('04', wide(prime), y), 'key.point'];
  yield ['coordinate above the prime', of('04', wide((x + prime) % 2n ** 256n), y), 'key.point'];
  yield ['coordinates exchanged', of('04', y, point.subarray(1, 33)), 'key.point'];
  yield ['compressed point', of((y[31] ?? 0) % 2 === 0 ? '02' : '03', point.subarray(1, 33)), 'key.point'];
  yield ['hybrid point', of((y[31] ?? 0) % 2 === 0 ? '06' : '07', point.subarray(1)), 'key.point'];
  yield ['point one octet short', of('04', point.subarray(1, 64)), 'key.point'];
  yield ['point one octet long', of('04', point.subarray(1), hex('00')), 'key.point'];
  yield ['point of P-256 called P-384', requestFor(ecSpki('1.3.132.0.34', point)), 'key.point'];
  yield ['point of secp256k1 called P-256', requestFor(ecSpki(curve, ecPair('secp256k1').spki.subarray(-65))), 'key.point'];
}

function multipleOf(prime: bigint): bigint {
  for (;;) {
    const number = (randomOdd(2048) / prime) * prime;
    const others = smallPrimes.filter((other) => other !== prime);
    if (number.toString(2).length === 2048 && others.every((other) => number % other !== 0n)) return number;
  }
}

function squareModulus(): bigint {
  const p = primeFrom(() => randomOdd(1024));
  return p * p;
}

function* signatures(): Generator<readonly [string, Uint8Array, string]> {
  const bad = 'request.signature';
  const algorithm = 'request.signature-algorithm';
  const other = ecPair();
  yield ['key of another', requestWith({ signer: other.privateKey }), bad];
  yield ['RSA key of another', requestWith({ signer: rsaPair().privateKey, spki: rsa.spki }), bad];
  yield ['signature over other content', requestWith({ signature: sign('sha256', text('other'), p256.privateKey) }), bad];
  yield ['signature with another digest', requestWith({ digest: 'sha384' }), bad];
  yield ['no signature', requestWith({ signature: hex('') }), bad];
  yield ['signature of zeros', requestWith({ signature: new Uint8Array(64) }), bad];
  yield ['signature with r and s of 0', requestWith({ signature: hex('3006020100020100') }), bad];
  yield ['signature with r and s of 1', requestWith({ signature: hex('3006020101020101') }), bad];
  yield [
    'signature as in JOSE',
    requestWith({ signature: sign('sha256', text('x'), { key: p256.privateKey, dsaEncoding: 'ieee-p1363' }) }),
    bad,
  ];
  yield ['RSA signature of zeros', requestWith({ signature: new Uint8Array(256) }, rsa), bad];
  yield ['RSA signature of one octet', requestWith({ signature: hex('01') }, rsa), bad];
  const good = requestWith({});
  const changed = Uint8Array.from(good);
  changed[good.length - 1] = (changed[good.length - 1] ?? 0) ^ 1;
  yield ['last bit of the signature turned', changed, bad];
  const name = Buffer.from('request');
  yield ['subject changed after signing', replaced(good, name, Buffer.from('reqvest')), bad];
  yield [
    'trailing byte in the signature',
    requestWith({ signature: join(sign('sha256', text('x'), p256.privateKey), hex('00')) }),
    bad,
  ];
  const identifier = (dotted: string, ...more: readonly Uint8Array[]): Uint8Array => encodeSequence(encodeOid(dotted), ...more);
  yield [
    'RSA with SHA-1',
    requestWith({ digest: 'sha1', algorithm: identifier('1.2.840.113549.1.1.5', encodeNull()) }, rsa),
    algorithm,
  ];
  yield [
    'RSA with MD5',
    requestWith({ digest: 'md5', algorithm: identifier('1.2.840.113549.1.1.4', encodeNull()) }, rsa),
    algorithm,
  ];
  yield ['ECDSA with SHA-1', requestWith({ digest: 'sha1', algorithm: identifier('1.2.840.10045.4.1') }), algorithm];
  yield ['RSA-PSS signature', requestWith({ algorithm: identifier('1.2.840.113549.1.1.10', hex('3000')) }, rsa), algorithm];
  yield ['ECDSA with null parameters', requestWith({ algorithm: identifier('1.2.840.10045.4.3.2', encodeNull()) }), algorithm];
  yield ['RSA signature without null', requestWith({ algorithm: identifier('1.2.840.113549.1.1.11') }, rsa), algorithm];
  yield ['RSA algorithm for an EC key', requestWith({ algorithm: signatureSchemes['rsa-sha256'].identifier }), algorithm];
  yield ['EC algorithm for an RSA key', requestWith({ algorithm: signatureSchemes['ecdsa-sha256'].identifier }, rsa), algorithm];
  yield ['Ed25519 algorithm for an EC key', requestWith({ algorithm: signatureSchemes.ed25519.identifier }), algorithm];
  yield ['unknown signature algorithm', requestWith({ algorithm: identifier('1.2.3.4') }), algorithm];
  yield ['signature algorithm of nothing', requestWith({ algorithm: hex('3000') }), algorithm];
}

export function requestCases(): readonly RequestCase[] {
  const encoded = (der: Uint8Array): string => Buffer.from(der).toString('base64');
  const cases: RequestCase[] = [];
  for (const [name, der, asks] of accepted()) {
    cases.push({ name, der: encoded(der), verdict: 'accept', ...(asks === undefined ? {} : { asks }) });
  }
  for (const family of [malformed(), attributes(), keys(), signatures()]) {
    for (const [name, der, verdict] of family) cases.push({ name, der: encoded(der), verdict });
  }
  return cases;
}

if (import.meta.main) {
  const rows = requestCases().map((row) => JSON.stringify(row));
  writeFileSync(new URL('requests.json', import.meta.url), `[\n${rows.join(',\n')}\n]\n`);
}
