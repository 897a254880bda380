/**
 * Writes `certificates.json`: chains named by their fault, with the verdict the standards give each, by construction and
 * never by asking the verifier. Run it with node to write the file anew; keys are fresh every time, so every line changes.
 */
import { writeFileSync } from 'node:fs';
import {
  encode,
  encodeAscii,
  encodeExplicit,
  encodeNull,
  encodeOctetString,
  encodeOid,
  encodeSequence,
  encodeSmallInteger,
} from '../../spiffe/x509/der-writer.ts';
import { contextTag, derTag } from '../../spiffe/x509/der.ts';
import { encodeExtension } from '../../spiffe/x509/encoded.ts';
import { keyUsage, oid, signatureSchemes } from '../../spiffe/x509/names.ts';
import {
  authorityExtensions,
  ecPair,
  ed25519Pair,
  extension,
  forgeCertificate,
  join,
  leafExtensions,
  nameOf,
  rsaPair,
  type CertificateForm,
  type Pair,
} from '../help/forge.ts';

export interface CertificateCase {
  readonly name: string;
  /** Base64 of the DER, leaf first. */
  readonly chain: readonly string[];
  readonly authorities: readonly string[];
  readonly at: number;
  /** `accept`, or the reason of the refusal. */
  readonly verdict: string;
}

const at = Date.UTC(2027, 0, 1);
const web = 'spiffe://example.org/web';
const ca = ecPair();
/** Of every leaf, fresh with every run: for tests that show the chains to somebody. */
export const leafKey = ecPair();
const hex = (value: string): Uint8Array => Buffer.from(value, 'hex');
const year = (number: number): number => Date.UTC(number, 0, 1);

const root = authority(ca, {});
const leaf = (form: Partial<CertificateForm> = {}, signer: Pair = ca): Uint8Array =>
  forgeCertificate({ signer: signer.privateKey, spki: leafKey.spki, extensions: leafExtensions(web), ...form });
const leafWith = (...extensions: readonly Uint8Array[]): Uint8Array => leaf({ extensions });
const right = {
  usage: extension.usage(keyUsage.digitalSignature),
  purposes: extension.purposes(oid.serverAuth, oid.clientAuth),
  basic: extension.basic(false),
  names: extension.names([], [web]),
};
const leafBut = (pieces: Partial<typeof right>): Uint8Array => leafWith(...Object.values({ ...right, ...pieces }));

function authority(pair: Pair, form: Partial<CertificateForm>): Uint8Array {
  return forgeCertificate({
    signer: pair.privateKey,
    spki: pair.spki,
    subject: nameOf('authority'),
    extensions: authorityExtensions(),
    ...form,
  });
}

/** An authority below the root, called `name`. */
function between(name: string, pair: Pair, form: Partial<CertificateForm> = {}, signer: Pair = ca): Uint8Array {
  return authority(pair, { signer: signer.privateKey, subject: nameOf(name), ...form });
}

interface Row {
  readonly name: string;
  readonly chain: readonly Uint8Array[];
  readonly authorities?: readonly Uint8Array[];
  readonly at?: number;
  readonly verdict: string;
}

function* one(rows: Readonly<Record<string, readonly [certificate: Uint8Array, verdict: string]>>): Generator<Row> {
  for (const [name, [certificate, verdict]] of Object.entries(rows)) yield { name, chain: [certificate], verdict };
}

function leafRules(): Generator<Row> {
  return one({
    'right leaf': [leaf(), 'accept'],
    'X509-02: two SPIFFE IDs': [leafBut({ names: extension.names([], [web, 'spiffe://example.org/db']) }), 'svid.leaf.many-uris'],
    'X509-02: a second URI that is no SPIFFE ID': [
      leafBut({ names: extension.names([], [web, 'https://a.example']) }),
      'svid.leaf.many-uris',
    ],
    'X509-02: the same URI twice': [leafBut({ names: extension.names([], [web, web]) }), 'svid.leaf.many-uris'],
    'X509-03: no alternative names': [leafWith(right.usage, right.basic), 'svid.leaf.no-uri'],
    'X509-03: DNS names only': [leafBut({ names: extension.names(['web.example.org'], []) }), 'svid.leaf.no-uri'],
    'X509-03: no extensions': [leaf({ extensions: null }), 'svid.leaf.no-uri'],
    'X509-03: URI that is no SPIFFE ID': [leafBut({ names: extension.names([], ['spiffe://example.org/a//b']) }), 'svid.leaf.id'],
    'X509-03: URI with a trailing slash': [
      leafBut({ names: extension.names([], ['spiffe://example.org/web/']) }),
      'svid.leaf.id',
    ],
    'X509-03: empty URI': [leafBut({ names: extension.names([], ['']) }), 'svid.leaf.id'],
    'X509-04: DNS names beside the URI': [leafBut({ names: extension.names(['a.example', 'b.example'], [web]) }), 'accept'],
    'X509-06: no path': [leafBut({ names: extension.names([], ['spiffe://example.org']) }), 'svid.leaf.no-path'],
    'X509-07: empty subject and critical names': [
      leaf({ subject: nameOf(''), extensions: [right.usage, extension.names([], [web], true)] }),
      'accept',
    ],
    'X509-08: scheme https': [leafBut({ names: extension.names([], ['https://example.org/web']) }), 'svid.leaf.id'],
    'X509-08: scheme in capitals': [leafBut({ names: extension.names([], ['SPIFFE://example.org/web']) }), 'svid.leaf.id'],
    'X509-26: leaf with cA': [leafBut({ basic: extension.basic(true) }), 'svid.leaf.is-authority'],
    'X509-27: leaf with keyCertSign': [
      leafBut({ usage: extension.usage(keyUsage.digitalSignature | keyUsage.keyCertSign) }),
      'svid.leaf.key-cert-sign',
    ],
    'X509-27: leaf with cRLSign': [
      leafBut({ usage: extension.usage(keyUsage.digitalSignature | keyUsage.cRLSign) }),
      'svid.leaf.crl-sign',
    ],
    'leaf without key usage': [leafWith(right.names), 'accept'],
    'NUL in the URI': [
      leafBut(
        { names: encodeExtension(oid.subjectAltName, false, encodeSequence(encode(contextTag(6), Buffer.from(`${web}\0x`)))) },
      ),
      'der.text',
    ],
  });
}

function form(): Generator<Row> {
  const good = leaf();
  const long = join(hex('00'), new Uint8Array(20).fill(0xff));
  const validity = (before: Uint8Array, after: Uint8Array): Uint8Array => leaf({ validity: encodeSequence(before, after) });
  const utc = (digits: string): Uint8Array => encodeAscii(derTag.utcTime, digits);
  const general = (digits: string): Uint8Array => encodeAscii(derTag.generalizedTime, digits);
  const begin = utc('260101000000Z');
  const wrapped = encodeExplicit(3, encodeSequence(...leafExtensions(web)));
  return one({
    'trailing byte': [join(good, hex('00')), 'der.trailing'],
    'cut short': [good.subarray(0, -1), 'der.truncated'],
    'empty': [hex(''), 'der.truncated'],
    'version 1': [leaf({ version: null, extensions: null }), 'certificate.version'],
    'version 1 written out': [leaf({ version: encodeExplicit(0, encodeSmallInteger(0)) }), 'certificate.version'],
    'version 2': [leaf({ version: encodeExplicit(0, encodeSmallInteger(1)) }), 'certificate.version'],
    'version 4': [leaf({ version: encodeExplicit(0, encodeSmallInteger(3)) }), 'certificate.version'],
    'negative serial number': [leaf({ serial: hex('020180') }), 'certificate.serial'],
    'serial number with a leading zero': [leaf({ serial: hex('02020001') }), 'der.integer'],
    'serial number of 21 octets': [leaf({ serial: encode(derTag.integer, long) }), 'certificate.serial'],
    'serial number of 20 octets': [leaf({ serial: encode(derTag.integer, new Uint8Array(20).fill(0x7f)) }), 'accept'],
    'outer algorithm differs': [leaf({ outerAlgorithm: signatureSchemes['ecdsa-sha384'].identifier }), 'certificate.algorithm'],
    'extension twice': [leafWith(right.names, right.basic, right.basic), 'extension.duplicate'],
    'unknown critical extension': [
      leafWith(right.names, encodeExtension('1.2.3.4', true, encodeNull())),
      'certificate.critical-extension',
    ],
    'unknown extension': [leafWith(right.names, encodeExtension('1.2.3.4', false, encodeNull())), 'accept'],
    'critical policies': [leafWith(right.names, encodeExtension(oid.certificatePolicies, true, hex('3000'))), 'accept'],
    'critical policy constraints': [
      leafWith(right.names, encodeExtension('2.5.29.36', true, hex('3000'))),
      'certificate.critical-extension',
    ],
    'empty extensions': [leafWith(), 'extension.none'],
    'extensions twice': [leaf({ tail: wrapped }), 'der.trailing'],
    'unique identifier': [leaf({ extensions: null, tail: join(hex('81020000'), wrapped) }), 'der.trailing'],
    'critical false written out': [
      leafWith(encodeSequence(encodeOid('1.2.3'), hex('010100'), encodeOctetString(hex('0500')))),
      'extension.default',
    ],
    'ends before it begins': [validity(utc('270101000000Z'), utc('260101000000Z')), 'certificate.validity'],
    'time without seconds': [validity(utc('2601010000Z'), utc('360101000000Z')), 'der.time'],
    'time with an offset': [validity(utc('260101000000+0000'), utc('360101000000Z')), 'der.time'],
    'time with a fraction': [validity(begin, general('20500101000000.5Z')), 'der.time'],
    'time that is no date': [validity(utc('260230000000Z'), utc('360101000000Z')), 'der.time'],
    'time with a leap second': [validity(utc('251231235960Z'), utc('360101000000Z')), 'der.time'],
    'general time before 2050': [validity(begin, general('20491231235959Z')), 'der.time'],
    'general time from 2050': [validity(begin, general('20500101000000Z')), 'accept'],
    'no well-defined end': [validity(begin, general('99991231235959Z')), 'accept'],
  });
}

function* signatures(): Generator<Row> {
  yield* one({
    'signature of another key': [leaf({}, ecPair()), 'x509.path.signature'],
    'signature of zeros': [leaf({ signature: new Uint8Array(70) }), 'x509.path.signature'],
    'empty signature': [leaf({ signature: hex('') }), 'x509.path.signature'],
    'algorithm of another kind of key': [
      leaf({ algorithm: signatureSchemes['rsa-sha256'].identifier }),
      'x509.path.signature-algorithm',
    ],
    'unknown algorithm': [leaf({ algorithm: encodeSequence(encodeOid('1.2.3.4')) }), 'x509.path.signature-algorithm'],
    'ECDSA with SHA-1': [leaf({ algorithm: encodeSequence(encodeOid('1.2.840.10045.4.1')) }), 'x509.path.signature-algorithm'],
  });
  const allowed = { 'P-384': ecPair('P-384'), 'P-521': ecPair('P-521'), RSA: rsaPair(), Ed25519: ed25519Pair() };
  for (const [name, pair] of Object.entries(allowed)) {
    yield { name: `authority with ${name}`, chain: [leaf({}, pair)], authorities: [authority(pair, {})], verdict: 'accept' };
  }
  const weak = { 'RSA 1024': rsaPair(1024), 'P-224': ecPair('secp224r1'), secp256k1: ecPair('secp256k1') };
  for (const [name, pair] of Object.entries(weak)) {
    yield {
      name: `authority with ${name}`,
      chain: [leaf({}, pair)],
      authorities: [authority(pair, {})],
      verdict: 'x509.path.weak-key',
    };
  }
  const garbled = authority(ca, { spki: encodeSequence(encodeSequence(encodeOid(oid.ecPublicKey)), hex('03020004')) });
  yield { name: 'authority with an unreadable key', chain: [leaf()], authorities: [garbled], verdict: 'x509.path.weak-key' };
}

function* times(): Generator<Row> {
  const short = leaf({ validity: [year(2027), year(2028)] });
  yield { name: 'at its first instant', chain: [short], at: year(2027), verdict: 'accept' };
  yield { name: 'just before it', chain: [short], at: year(2027) - 1, verdict: 'x509.path.not-yet-valid' };
  yield { name: 'at its last instant', chain: [short], at: year(2028), verdict: 'accept' };
  yield { name: 'just after it', chain: [short], at: year(2028) + 1, verdict: 'x509.path.expired' };
  const old = authority(ca, { validity: [year(2020), year(2021)] });
  yield { name: 'authority expired', chain: [leaf()], authorities: [old], verdict: 'x509.path.expired' };
  const young = authority(ca, { validity: [year(2030), year(2031)] });
  yield { name: 'authority not valid yet', chain: [leaf()], authorities: [young], verdict: 'x509.path.not-yet-valid' };
  yield { name: 'old and new authority of one key', chain: [leaf()], authorities: [old, root], verdict: 'accept' };
}

function* paths(): Generator<Row> {
  const [one1, two, three] = [ecPair(), ecPair(), ecPair()];
  const below = (name: string, pair: Pair): Uint8Array => leaf({ issuer: nameOf(name) }, pair);
  const first = between('one', one1);
  const second = between('two', two, { issuer: nameOf('one') }, one1);
  const chain = [below('two', two), second, first];
  yield { name: 'empty chain', chain: [], verdict: 'x509.path.empty-chain' };
  yield { name: 'empty bundle', chain: [leaf()], authorities: [], verdict: 'x509.path.no-authorities' };
  yield {
    name: 'bundle of an unreadable authority',
    chain: [leaf()],
    authorities: [hex('3000')],
    verdict: 'x509.path.unknown-authority',
  };
  yield {
    name: 'unreadable authority beside the right one',
    chain: [leaf()],
    authorities: [hex('3000'), root],
    verdict: 'accept',
  };
  yield { name: 'X509-25: one between', chain: [below('one', one1), first], verdict: 'accept' };
  yield { name: 'X509-25: two between', chain, verdict: 'accept' };
  yield { name: 'X509-25: two between in another order', chain: [chain[0]!, first, second], verdict: 'accept' };
  yield { name: 'X509-25: between is missing', chain: [chain[0]!, first], verdict: 'x509.path.unknown-authority' };
  yield {
    name: 'X509-25: root in the chain but not in the bundle',
    chain: [leaf(), root],
    authorities: [authority(three, { subject: nameOf('three') })],
    verdict: 'x509.path.unknown-authority',
  };
  yield { name: 'T-09: anchor that is not self-signed', chain: [chain[0]!, second], authorities: [first], verdict: 'accept' };
  yield {
    name: 'same name, another key, then the right one',
    chain: [leaf()],
    authorities: [authority(three, {}), root],
    verdict: 'accept',
  };
  yield { name: 'name differs in case', chain: [leaf({ issuer: nameOf('Authority') })], verdict: 'x509.path.unknown-authority' };
  const utf8 = encodeSequence(
    encode(derTag.set, encodeSequence(encodeOid(oid.commonName), encodeAscii(derTag.utf8String, 'authority'))),
  );
  yield { name: 'name in another string type', chain: [leaf({ issuer: utf8 })], verdict: 'x509.path.unknown-authority' };
  const misled = leafWith(...Object.values(right), extension.authorityKeyId(three.spki));
  yield { name: 'key identifier of another authority is only a hint', chain: [misled], verdict: 'accept' };
  yield {
    name: 'between without cA',
    chain: [below('one', one1), between('one', one1, { extensions: [extension.usage(keyUsage.keyCertSign)] })],
    verdict: 'x509.path.not-authority',
  };
  yield { name: 'X509-14: a leaf as issuer', chain: [below('leaf', leafKey), leaf()], verdict: 'x509.path.not-authority' };
  yield {
    name: 'X509-18: between without keyCertSign',
    chain: [below('one', one1), between('one', one1, { extensions: [extension.basic(true), extension.usage(keyUsage.cRLSign)] })],
    verdict: 'x509.path.key-cert-sign',
  };
  yield {
    name: 'X509-17: between without key usage',
    chain: [below('one', one1), between('one', one1, { extensions: [extension.basic(true)] })],
    verdict: 'x509.path.key-cert-sign',
  };
  yield {
    name: 'anchor without key usage',
    chain: [leaf()],
    authorities: [authority(ca, { extensions: [extension.basic(true)] })],
    verdict: 'accept',
  };
  yield {
    name: 'anchor without keyCertSign',
    chain: [leaf()],
    authorities: [authority(ca, { extensions: [extension.basic(true), extension.usage(keyUsage.cRLSign)] })],
    verdict: 'x509.path.key-cert-sign',
  };
  yield {
    name: 'anchor without cA',
    chain: [leaf()],
    authorities: [authority(ca, { extensions: [extension.usage(keyUsage.keyCertSign)] })],
    verdict: 'x509.path.not-authority',
  };
  const usage = extension.usage(keyUsage.keyCertSign);
  const limited = (length: number): Uint8Array => authority(ca, { extensions: [usage, extension.pathLen(length)] });
  yield { name: 'X509-15: path length 0 and nothing between', chain: [leaf()], authorities: [limited(0)], verdict: 'accept' };
  yield {
    name: 'X509-15: path length 0 and one between',
    chain: [below('one', one1), first],
    authorities: [limited(0)],
    verdict: 'x509.path.path-length',
  };
  yield { name: 'X509-15: path length 1 and two between', chain, authorities: [limited(1)], verdict: 'x509.path.path-length' };
  yield { name: 'X509-15: path length 2 and two between', chain, authorities: [limited(2)], verdict: 'accept' };
  const loop = [between('x', one1, { issuer: nameOf('y') }, two), between('y', two, { issuer: nameOf('x') }, one1)];
  yield { name: 'two that sign each other', chain: [below('x', one1), ...loop], verdict: 'x509.path.unknown-authority' };
  const many = Array.from({ length: 31 }, () => between('x', one1, { issuer: nameOf('x') }, one1));
  yield { name: 'thirty that sign each other', chain: [below('x', one1), ...many], verdict: 'x509.path.effort' };
  yield { name: 'chain of 33', chain: [below('x', one1), ...many, first], verdict: 'x509.path.long-chain' };
  yield { name: 'broken certificate between', chain: [leaf(), hex('3000')], verdict: 'der.truncated' };
}

function* nameConstraints(): Generator<Row> {
  const uri = (value: string): Uint8Array => encodeSequence(encodeAscii(contextTag(6), value));
  const dns = (value: string): Uint8Array => encodeSequence(encodeAscii(contextTag(2), value));
  const address = encodeSequence(encode(contextTag(7), new Uint8Array(8)));
  const directory = encodeSequence(encode(contextTag(4, true), nameOf('authority')));
  const constrained = (which: 0 | 1, ...subtrees: readonly Uint8Array[]): readonly Uint8Array[] => [
    authority(ca, {
      extensions: [
        ...authorityExtensions(),
        encodeExtension(oid.nameConstraints, true, encodeSequence(encode(contextTag(which, true), ...subtrees))),
      ],
    }),
  ];
  const refused = 'x509.path.name-constraint';
  const withDns = leafBut({ names: extension.names(['web.example.org'], [web]) });
  const rows: readonly (readonly [string, Uint8Array, readonly Uint8Array[], string])[] = [
    ['permitted URI', leaf(), constrained(0, uri('example.org')), 'accept'],
    ['another permitted URI', leaf(), constrained(0, uri('other.org')), refused],
    ['permitted URI of subdomains alone', leaf(), constrained(0, uri('.example.org')), refused],
    ['excluded URI', leaf(), constrained(1, uri('example.org')), refused],
    ['another excluded URI', leaf(), constrained(1, uri('other.org')), 'accept'],
    ['one of two permitted URIs', leaf(), constrained(0, uri('other.org'), uri('example.org')), 'accept'],
    ['permitted DNS name, URI free', withDns, constrained(0, dns('example.org')), 'accept'],
    ['DNS name outside', withDns, constrained(0, dns('other.org')), refused],
    ['excluded DNS name', withDns, constrained(1, dns('example.org')), refused],
    ['excluded addresses, and none there', leaf(), constrained(1, address), 'accept'],
    ['permitted directory name, which nobody here reads', leaf(), constrained(0, directory), refused],
  ];
  for (const [name, certificate, authorities, verdict] of rows) yield {
    name: `X509-16: ${name}`,
    chain: [certificate],
    authorities,
    verdict,
  };
  const empty = [
    authority(ca, { extensions: [...authorityExtensions(), encodeExtension(oid.nameConstraints, true, hex('3000'))] }),
  ];
  yield { name: 'X509-16: no constraint in it', chain: [leaf()], authorities: empty, verdict: 'x509.path.unknown-authority' };
}

export function certificateCases(): readonly CertificateCase[] {
  const encoded = (all: readonly Uint8Array[]): string[] => all.map((der) => Buffer.from(der).toString('base64'));
  return [...leafRules(), ...form(), ...signatures(), ...times(), ...paths(), ...nameConstraints()].map((row) => ({
    name: row.name,
    chain: encoded(row.chain),
    authorities: encoded(row.authorities ?? [root]),
    at: row.at ?? at,
    verdict: row.verdict,
  }));
}

if (import.meta.main) {
  const rows = certificateCases().map((row) => JSON.stringify(row));
  writeFileSync(new URL('certificates.json', import.meta.url), `[\n${rows.join(',\n')}\n]\n`);
}
