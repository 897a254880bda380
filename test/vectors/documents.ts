/**
 * Signed messages as clouds make them, and every way to make them wrong: any piece can be replaced by any bytes, and what is
 * forged is signed all the same. Knows no rule; what verifiers make of it is for the tests to say.
 */
import { constants, createHash, sign, type KeyObject } from 'node:crypto';
import { contextTag, derTag } from '../../spiffe/x509/der.ts';
import {
  encode,
  encodeNull,
  encodeOctetString,
  encodeOid,
  encodeSequence,
  encodeSet,
  encodeSmallInteger,
  encodeTime,
} from '../../spiffe/x509/der-writer.ts';
import { join } from '../help/forge.ts';
import { partsOf } from './misencoded.ts';

export const oids = {
  data: '1.2.840.113549.1.7.1',
  signedData: '1.2.840.113549.1.7.2',
  envelopedData: '1.2.840.113549.1.7.3',
  contentType: '1.2.840.113549.1.9.3',
  messageDigest: '1.2.840.113549.1.9.4',
  signingTime: '1.2.840.113549.1.9.5',
  algorithmProtection: '1.2.840.113549.1.9.52',
  smimeCapabilities: '1.2.840.113549.1.9.15',
  md5: '1.2.840.113549.2.5',
  sha1: '1.3.14.3.2.26',
  sha224: '2.16.840.1.101.3.4.2.4',
  sha256: '2.16.840.1.101.3.4.2.1',
  sha384: '2.16.840.1.101.3.4.2.2',
  sha512: '2.16.840.1.101.3.4.2.3',
  sha3: '2.16.840.1.101.3.4.2.8',
  rsa: '1.2.840.113549.1.1.1',
  rsaMd5: '1.2.840.113549.1.1.4',
  rsaSha1: '1.2.840.113549.1.1.5',
  rsaPss: '1.2.840.113549.1.1.10',
  rsaSha256: '1.2.840.113549.1.1.11',
  rsaSha384: '1.2.840.113549.1.1.12',
  rsaSha512: '1.2.840.113549.1.1.13',
  ecdsaSha256: '1.2.840.10045.4.3.2',
} as const;

/** An AlgorithmIdentifier; parameters are absent unless given. */
export function algorithm(dotted: string, ...parameters: readonly Uint8Array[]): Uint8Array {
  return encodeSequence(encodeOid(dotted), ...parameters);
}

export const withNull = (dotted: string): Uint8Array => algorithm(dotted, encodeNull());

export function attribute(dotted: string, ...values: readonly Uint8Array[]): Uint8Array {
  return encodeSequence(encodeOid(dotted), encodeSet(...values));
}

/** Whose certificate, with which key. */
export interface Signing {
  readonly key: KeyObject;
  readonly issuer: Uint8Array;
  /** The whole INTEGER. */
  readonly serial: Uint8Array;
}

export interface SignerForm extends Signing {
  readonly version?: number;
  /** The whole AlgorithmIdentifiers, and the digest that is computed. */
  readonly digestName?: Uint8Array;
  readonly hash?: string;
  readonly algorithm?: Uint8Array;
  /** As `sorted` makes them; without them the content itself is signed. */
  readonly attributes?: readonly Uint8Array[] | undefined;
  readonly unsigned?: Uint8Array;
  readonly signature?: Uint8Array;
  readonly identifier?: Uint8Array;
  readonly pss?: boolean;
}

/** One SignerInfo over `content`. */
export function signerInfo(content: Uint8Array, form: SignerForm): Uint8Array {
  const { digestName = algorithm(oids.sha256), attributes, hash = 'sha256' } = form;
  const signed = attributes === undefined ? content : encodeSet(...attributes);
  const key = form.pss === true ? { key: form.key, padding: constants.RSA_PKCS1_PSS_PADDING } : form.key;
  return encodeSequence(
    encodeSmallInteger(form.version ?? 1),
    form.identifier ?? encodeSequence(form.issuer, form.serial),
    digestName,
    ...(attributes === undefined ? [] : [encode(contextTag(0, true), ...attributes)]),
    form.algorithm ?? withNull(oids.rsaSha256),
    encodeOctetString(form.signature ?? sign(hash, signed, key)),
    ...(form.unsigned === undefined ? [] : [form.unsigned]),
  );
}

export interface AttributeForm {
  readonly digestName?: Uint8Array;
  readonly hash?: string;
  readonly algorithm?: Uint8Array;
  /** What the digest is of, when not of the content. */
  readonly digestOf?: Uint8Array;
  readonly type?: string;
}

/** Those that Amazon signs, in order. */
export function attributesOf(content: Uint8Array, form: AttributeForm = {}): readonly Uint8Array[] {
  const { digestName = algorithm(oids.sha256), hash = 'sha256', algorithm: name = withNull(oids.rsaSha256) } = form;
  const digest = createHash(hash).update(form.digestOf ?? content).digest();
  return sorted([
    attribute(oids.contentType, encodeOid(form.type ?? oids.data)),
    attribute(oids.signingTime, encodeTime(Date.UTC(2026, 4, 31))),
    attribute(oids.algorithmProtection, encodeSequence(digestName, encode(contextTag(1, true), ...partsOf(name)))),
    attribute(oids.messageDigest, encodeOctetString(digest)),
  ]);
}

export function sorted(members: readonly Uint8Array[]): readonly Uint8Array[] {
  return members.toSorted((a, b) => Buffer.compare(a, b));
}

export interface MessageForm {
  readonly content: Uint8Array;
  readonly signers: readonly Uint8Array[];
  readonly type?: string;
  readonly version?: number;
  readonly digestNames?: readonly Uint8Array[];
  readonly contentType?: string;
  readonly detached?: boolean;
  /** After the octets, after their wrapper, after the certificates, after the signers, after SignedData, after it all. */
  readonly tails?: Readonly<Partial<Record<'octets' | 'content' | 'certificates' | 'signers' | 'data' | 'message', Uint8Array>>>;
  readonly certificates?: readonly Uint8Array[];
}

export function messageOf(form: MessageForm): Uint8Array {
  const tail = (place: keyof NonNullable<MessageForm['tails']>): readonly Uint8Array[] => {
    const bytes = form.tails?.[place];
    return bytes === undefined ? [] : [bytes];
  };
  const octets = form.detached === true ? [] : [encode(contextTag(0, true), encodeOctetString(form.content), ...tail('octets'))];
  const data = encodeSequence(
    encodeSmallInteger(form.version ?? 1),
    encodeSet(...(form.digestNames ?? [algorithm(oids.sha256)])),
    encodeSequence(encodeOid(form.contentType ?? oids.data), ...octets, ...tail('content')),
    ...(form.certificates === undefined ? [] : [encode(contextTag(0, true), ...form.certificates)]),
    ...tail('certificates'),
    encodeSet(...form.signers),
    ...tail('signers'),
  );
  const wrapper = encode(contextTag(0, true), data, ...tail('data'));
  return join(encodeSequence(encodeOid(form.type ?? oids.signedData), wrapper), ...tail('message'));
}

/** Places in a streamed message that are wrong on request. */
export interface StreamForm {
  /** Pieces of the content; without them those of 1000 octets that streams write. */
  readonly segments?: readonly Uint8Array[];
  /** The indefinite wrapper of this number, counted from the outermost, becomes a definite one. */
  readonly definite?: number;
  /** Put before the end of the wrapper of this number. */
  readonly before?: readonly [wrapper: number, bytes: Uint8Array];
  /** The wrapper of this number does not end. */
  readonly endless?: number;
  readonly tail?: Uint8Array;
}

const end = Uint8Array.of(0, 0);

/** The same message as streams write it: wrappers numbered message 0, its content 1, data 2, content 3, 4, octets 5, certificates 6. */
export function streamOf(form: MessageForm, faults: StreamForm = {}): Uint8Array {
  const wrap = (number: number, tag: number, ...parts: readonly Uint8Array[]): Uint8Array => {
    const inner = [...parts, ...(faults.before?.[0] === number ? [faults.before[1]] : [])];
    if (faults.definite === number) return encode(tag, ...inner);
    return join(Uint8Array.of(tag, 0x80), ...inner, ...(faults.endless === number ? [] : [end]));
  };
  const segments = faults.segments ?? cut(form.content, 1000);
  const octets = wrap(5, derTag.octetString | 0x20, ...segments.map((segment) => encodeOctetString(segment)));
  const content = wrap(3, derTag.sequence, encodeOid(form.contentType ?? oids.data), wrap(4, contextTag(0, true), octets));
  const data = wrap(
    2,
    derTag.sequence,
    encodeSmallInteger(form.version ?? 1),
    encodeSet(...(form.digestNames ?? [algorithm(oids.sha256)])),
    content,
    ...(form.certificates === undefined ? [] : [wrap(6, contextTag(0, true), ...form.certificates)]),
    encodeSet(...form.signers),
  );
  const message = wrap(0, derTag.sequence, encodeOid(form.type ?? oids.signedData), wrap(1, contextTag(0, true), data));
  return join(message, faults.tail ?? new Uint8Array());
}

export function cut(bytes: Uint8Array, size: number): readonly Uint8Array[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size));
}

/** Something that must be refused, or must not be; a family is refused for one reason. */
export interface Mutant {
  readonly family: string;
  readonly name: string;
  readonly evidence: Uint8Array;
  /** When not at the usual instant. */
  readonly at?: number;
}

export function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64');
}

/** Characters that look like those of `text` and are none of them. */
export function lookalikes(text: string): readonly string[] {
  const pairs: Readonly<Record<string, string>> = { a: 'а', e: 'е', i: 'і', o: 'о', c: 'с', s: 'ѕ', '-': '‐', '0': '０', '1': '１', '2': '٢', '3': '３', '4': '４' };
  const swapped = text.split('').flatMap((character, at) => {
    const twin = pairs[character];
    return twin === undefined ? [] : [`${text.slice(0, at)}${twin}${text.slice(at + 1)}`];
  });
  return [...swapped, `${text}\u200b`, `\u202e${text}`, ` ${text}`, `${text} `, `${text}\u0000`, `${text}\n`, text.normalize('NFKD').replace(/[a-z0-9]/, (c) => String.fromCodePoint((c.codePointAt(0) ?? 0) + 0xfee0))];
}

/** Values of every type that JSON has, and texts that are too much. */
export const wrongValues: readonly unknown[] = [
  null,
  true,
  false,
  0,
  1,
  -1,
  1.5,
  123_456_789_012,
  '',
  ' ',
  '*',
  '.',
  '..',
  '/',
  '../../spire/server',
  'a/b',
  '%2e%2e',
  'a'.repeat(65),
  'x'.repeat(20_000),
  [],
  [''],
  {},
  { toString: 'x' },
  [[[[]]]],
];
