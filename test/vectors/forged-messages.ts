/**
 * Forgeries of a signed message, by family, each with the reasons that it is refused for: what is wrong with the message
 * itself, whatever is signed in it. Some are signed with the honest key, as if the cloud could be brought to do it.
 */
import { randomBytes } from 'node:crypto';
import { contextTag, derTag } from '../../spiffe/x509/der.ts';
import { encode, encodeNull, encodeOctetString, encodeOid, encodeSequence, encodeSet, encodeSmallInteger } from '../../spiffe/x509/der-writer.ts';
import { createRandom, mutate } from '../fuzz/mutate.ts';
import { join } from '../help/forge.ts';
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
  type SignerForm,
  type Signing,
} from './documents.ts';
import { misencoded, segmented } from './misencoded.ts';

/** An honest message, and what else an attacker has. */
export interface Seed {
  readonly content: Uint8Array;
  readonly signing: Signing;
  readonly certificates?: readonly Uint8Array[];
  /** How the cloud names digest and signature. */
  readonly digestName: Uint8Array;
  readonly algorithm: Uint8Array;
  readonly hasAttributes: boolean;
  /** A key of the attacker's own, whose messages are right but for that. */
  readonly foreign: Signing;
  /** Something the cloud signed for the attacker. */
  readonly otherContent: Uint8Array;
}

export interface Forgery {
  readonly family: string;
  readonly name: string;
  readonly message: Uint8Array;
}

/** What the reader of messages says of each family. */
export const forgeryReasons: Readonly<Record<string, readonly string[]>> = {
  'detached content': ['cms.content', 'cms.streamed'],
  'second content': ['der.trailing', 'der.tag', 'cms.streamed', 'cms.digest', 'cms.signers'],
  'count of signers': ['cms.signers'],
  'other kind of message': ['cms.type', 'cms.content', 'cms.version'],
  'weak digest': ['cms.digest'],
  'other algorithm': ['cms.algorithm'],
  'two digests': ['cms.digest'],
  'unsigned attributes': ['cms.attributes'],
  'wrong attributes': ['cms.attributes', 'cms.content', 'der.tag', 'der.trailing', 'der.truncated'],
  'attributes and content exchanged': ['cms.content', 'cms.signature', 'cms.attributes'],
  revocations: ['cms.revocations'],
  'trailing bytes': ['der.trailing', 'der.tag', 'cms.streamed', 'cms.attributes'],
  'wrong signature': ['cms.signature', 'cms.attributes'],
  'other signer': ['cms.signer', 'der.tag'],
  'lengths of BER': ['der.length', 'cms.streamed', 'cms.signature', 'cms.signer', 'cms.digest', 'cms.attributes', 'der.tag'],
  'strings of BER': ['der.tag', 'cms.attributes', 'cms.content', 'cms.signature'],
  'broken stream': ['cms.streamed', 'der.length', 'der.tag', 'der.truncated'],
  'certificates beyond measure': ['cms.certificates', 'cms.streamed', 'cms.too-large'],
  truncated: ['der.truncated', 'der.tag', 'der.length', 'cms.streamed'],
};

const octets = (text: string): Uint8Array => encodeOctetString(Buffer.from(text));

export function* forgeries(seed: Seed): Generator<Forgery> {
  const { content, signing, digestName, foreign, otherContent } = seed;
  const attributes = (form: { readonly digestOf?: Uint8Array } = {}): SignerForm['attributes'] =>
    seed.hasAttributes ? attributesOf(content, { digestName, algorithm: seed.algorithm, ...form }) : undefined;
  const signer = (form: Partial<SignerForm> = {}, over = content): Uint8Array =>
    signerInfo(over, { ...signing, digestName, algorithm: seed.algorithm, attributes: attributes(), ...form });
  const form = (change: Partial<MessageForm> = {}): MessageForm => ({
    content,
    signers: [signer()],
    digestNames: [digestName],
    ...(seed.certificates === undefined ? {} : { certificates: seed.certificates }),
    ...change,
  });
  const honest = messageOf(form());
  const both = function* (family: string, name: string, change: Partial<MessageForm>): Generator<Forgery> {
    yield { family, name, message: messageOf(form(change)) };
    if (seed.hasAttributes) yield { family, name: `${name}, streamed`, message: streamOf(form(change)) };
  };

  yield* both('detached content', 'no content at all', { detached: true, content: new Uint8Array() });
  yield* both('detached content', 'empty content', { content: new Uint8Array(), signers: [signer({}, new Uint8Array())] });
  yield { family: 'detached content', name: 'content elsewhere', message: messageOf(form({ detached: true })) };

  for (const [name, other] of [['another', otherContent], ['the same', content], ['an empty', new Uint8Array()]] as const) {
    const twice = encodeOctetString(other);
    yield { family: 'second content', name: `${name} octet string`, message: messageOf(form({ tails: { octets: twice } })) };
    yield { family: 'second content', name: `${name} wrapper`, message: messageOf(form({ tails: { content: encode(contextTag(0, true), twice) } })) };
    const encap = encodeSequence(encodeOid(oids.data), encode(contextTag(0, true), twice));
    yield { family: 'second content', name: `${name} content info`, message: messageOf(form({ tails: { certificates: encap } })) };
    yield { family: 'second content', name: `${name} content info at the end`, message: messageOf(form({ tails: { signers: encap } })) };
    if (seed.hasAttributes) {
      for (const wrapper of [3, 4, 5, 2, 1, 0]) {
        yield { family: 'second content', name: `${name} octet string in the stream, ${wrapper}`, message: streamOf(form(), { before: [wrapper, twice] }) };
      }
    }
  }

  const theirs = signerInfo(content, { ...foreign, digestName, algorithm: seed.algorithm, attributes: attributes() });
  for (const [name, signers] of [
    ['none', []],
    ['the honest one twice', [signer(), signer()]],
    ['honest, then another', [signer(), theirs]],
    ['another, then honest', [theirs, signer()]],
    ['the honest one in pieces', [signer(), encodeSequence(encodeSmallInteger(1))]],
  ] as const) {
    yield* both('count of signers', name, { signers });
  }

  for (const type of [oids.data, oids.envelopedData, oids.contentType]) yield* both('other kind of message', type, { type });
  for (const contentType of [oids.signedData, oids.messageDigest]) yield* both('other kind of message', `content ${contentType}`, { contentType });
  for (const version of [0, 2, 3, 4, 5]) {
    yield* both('other kind of message', `version ${version}`, { version });
    yield* both('other kind of message', `signer of version ${version}`, { signers: [signer({ version })] });
  }

  for (const [hash, name] of [['md5', oids.md5], ['sha1', oids.sha1], ['sha224', oids.sha224], ['sha3-256', oids.sha3]] as const) {
    for (const id of [algorithm(name), withNull(name)]) {
      const weak = seed.hasAttributes ? attributesOf(content, { digestName: id, hash, algorithm: seed.algorithm }) : undefined;
      for (const scheme of [seed.algorithm, withNull(oids.rsa)]) {
        yield* both('weak digest', `${hash} ${id.length} ${scheme.length}`, {
          digestNames: [id],
          signers: [signer({ digestName: id, hash, attributes: weak, algorithm: scheme })],
        });
      }
    }
  }
  yield* both('weak digest', 'none of a name', { digestNames: [algorithm(oids.rsa)], signers: [signer({ digestName: algorithm(oids.rsa) })] });

  for (const name of [oids.rsaMd5, oids.rsaSha1, oids.rsaSha384, oids.rsaSha512, oids.rsaPss, oids.ecdsaSha256, oids.sha256, oids.data]) {
    for (const id of [algorithm(name), withNull(name)]) {
      yield* both('other algorithm', `${name} ${id.length}`, { signers: [signer({ algorithm: id, pss: name === oids.rsaPss })] });
    }
  }
  for (const parameters of [octets('x'), encodeSequence(), encodeSmallInteger(0), Uint8Array.of(derTag.null, 1, 0)]) {
    yield* both('other algorithm', `parameters ${parameters.length} ${parameters[0]}`, { signers: [signer({ algorithm: algorithm(oids.rsaSha256, parameters) })] });
  }
  yield* both('other algorithm', 'parameters twice', { signers: [signer({ algorithm: algorithm(oids.rsaSha256, encodeNull(), encodeNull()) })] });

  for (const digestNames of [[], [digestName, digestName], [digestName, algorithm(oids.sha512)], [algorithm(oids.sha1)], [algorithm(oids.sha512)], [algorithm(oids.sha256, encodeNull(), encodeNull())]]) {
    yield* both('two digests', `${digestNames.length} ${digestNames[0]?.length ?? 0} ${digestNames.at(-1)?.at(-1) ?? 0}`, { digestNames });
  }

  for (const unsigned of [[], [attribute(oids.signingTime)], [attribute(oids.messageDigest, octets('x'))], attributesOf(content)]) {
    yield* both('unsigned attributes', `${unsigned.length}`, { signers: [signer({ unsigned: encode(contextTag(1, true), ...unsigned) })] });
  }

  yield { family: 'revocations', name: 'none of them', message: messageOf(form({ tails: { certificates: encode(contextTag(1, true)) } })) };
  yield { family: 'revocations', name: 'one', message: messageOf(form({ tails: { certificates: encode(contextTag(1, true), encodeSequence()) } })) };

  for (const [name, tail] of [['a zero', Uint8Array.of(0)], ['an end', Uint8Array.of(0, 0)], ['a null', encodeNull()], ['itself', honest], ['a sequence', encodeSequence()]] as const) {
    for (const place of ['octets', 'content', 'certificates', 'signers', 'data', 'message'] as const) {
      yield { family: 'trailing bytes', name: `${name} after ${place}`, message: messageOf(form({ tails: { [place]: tail } })) };
    }
    yield { family: 'trailing bytes', name: `${name} in the signer`, message: messageOf(form({ signers: [signer({ unsigned: tail })] })) };
    if (seed.hasAttributes) yield { family: 'trailing bytes', name: `${name} after the stream`, message: streamOf(form(), { tail }) };
  }

  yield* wrongAttributes(seed, signer, both);
  yield* wrongSignatures(seed, signer, both);

  for (const [name, identifier] of [
    ['no name', encodeSequence(encodeSequence(), signing.serial)],
    ['no number', encodeSequence(signing.issuer, encodeSmallInteger(0))],
    ['another number', encodeSequence(signing.issuer, encodeSmallInteger(7))],
    ['another name', encodeSequence(encodeSequence(encodeSet(encodeSequence(encodeOid('2.5.4.3'), octets('x')))), signing.serial)],
    ['key identifier', encode(contextTag(0), randomBytes(20))],
    ['a negative number', encodeSequence(signing.issuer, Uint8Array.of(2, 1, 0xff))],
  ] as const) {
    yield* both('other signer', name, { signers: [signer({ identifier })] });
  }

  for (const [name, message] of misencoded(honest)) yield { family: 'lengths of BER', name, message };
  for (const [name, message] of segmented(honest)) yield { family: 'strings of BER', name, message };

  const many = Array.from({ length: 9 }, () => encodeSequence());
  yield* both('certificates beyond measure', 'nine', { certificates: many });
  yield* both('certificates beyond measure', 'large', { certificates: [encodeSequence(encodeOctetString(new Uint8Array(40_000)))] });

  if (seed.hasAttributes) yield* brokenStreams(content, form);
  for (let length = 1; length < honest.length; length += Math.ceil(honest.length / 60)) {
    yield { family: 'truncated', name: `${length}`, message: honest.subarray(0, length) };
  }
}

type Both = (family: string, name: string, change: Partial<MessageForm>) => Generator<Forgery>;
type MakeSigner = (form?: Partial<SignerForm>, over?: Uint8Array) => Uint8Array;

function* wrongAttributes(seed: Seed, signer: MakeSigner, both: Both): Generator<Forgery> {
  const { content, digestName, otherContent } = seed;
  const right = attributesOf(content, { digestName, algorithm: seed.algorithm });
  const wrong: readonly (readonly [string, readonly Uint8Array[]])[] = [
    ['of another content', attributesOf(content, { digestName, algorithm: seed.algorithm, digestOf: otherContent })],
    ['of another type', attributesOf(content, { digestName, algorithm: seed.algorithm, type: oids.signedData })],
    ['none', []],
    ['out of order', right.toReversed()],
    ['repeated', right.flatMap((one) => [one, one])],
    ['two digests', sorted([...right, attribute(oids.messageDigest, encodeOctetString(new Uint8Array(32)))])],
    ['protecting another digest', attributesOf(content, { digestName: algorithm(oids.sha512), algorithm: seed.algorithm })],
    ['protecting another signature', attributesOf(content, { digestName, algorithm: withNull(oids.rsaSha512) })],
    ['a digest of two values', sorted([...right.filter((one) => one !== right.at(-1)), attribute(oids.messageDigest, octets('x'), octets('y'))])],
    ['a time that is none', sorted([...right.filter((_, at) => at !== 1), attribute(oids.signingTime, octets('now'))])],
    ['protecting nothing', sorted([...right, attribute(`${oids.algorithmProtection}.1`), attribute(oids.smimeCapabilities)])],
    ['protection of a wrong type', sorted([...right.filter((_, at) => at !== 2), attribute(oids.algorithmProtection, encodeNull())])],
    ['a value that is no set', sorted([...right, encodeSequence(encodeOid(oids.smimeCapabilities), encodeSequence())])],
    ['more than name and values', sorted([...right, encodeSequence(encodeOid(oids.smimeCapabilities), encodeSet(encodeNull()), encodeNull())])],
    ...right.map((_, at) => [`without ${at}`, right.filter((__, other) => other !== at)] as const).filter((__, at) => at === 0 || at === 3),
  ];
  for (const [name, attributes] of wrong) yield* both('wrong attributes', name, { signers: [signer({ attributes })] });

  const asContent = encodeSet(...right);
  yield* both('attributes and content exchanged', 'the attributes as content', { content: asContent, signers: [signer({ attributes: undefined }, asContent)] });
  yield* both('attributes and content exchanged', 'an empty set as content', { content: encodeSet(), signers: [signer({ attributes: undefined }, encodeSet())] });
  if (seed.hasAttributes) {
    const signature = signatureOf(signer());
    yield* both('attributes and content exchanged', 'attributes left out', { signers: [signer({ attributes: undefined, signature })] });
  } else {
    const signature = signatureOf(signer());
    yield* both('attributes and content exchanged', 'attributes put in', { signers: [signer({ attributes: right, signature })] });
  }
}

function* wrongSignatures(seed: Seed, signer: MakeSigner, both: Both): Generator<Forgery> {
  const { otherContent, foreign } = seed;
  const right = signatureOf(signer());
  yield* both('wrong signature', 'of another key', { signers: [signer({ key: foreign.key })] });
  yield* both('wrong signature', 'over another content', { content: otherContent });
  yield* both('wrong signature', 'by PSS', { signers: [signer({ pss: true })] });
  const wrong: readonly (readonly [string, Uint8Array])[] = [
    ['none', new Uint8Array()],
    ['zeros', new Uint8Array(right.length)],
    ['ones', new Uint8Array(right.length).fill(0xff)],
    ['one', Uint8Array.of(...new Uint8Array(right.length - 1), 1)],
    ['too short', right.subarray(1)],
    ['too long', join(Uint8Array.of(0), right)],
    ['longer still', join(right, Uint8Array.of(0))],
    ['huge', new Uint8Array(8192)],
  ];
  for (const [name, signature] of wrong) yield* both('wrong signature', name, { signers: [signer({ signature })] });
  for (let bit = 0; bit < right.length * 8; bit += 61) {
    const signature = Uint8Array.from(right);
    signature[bit >> 3] = (signature[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    yield* both('wrong signature', `bit ${bit}`, { signers: [signer({ signature })] });
  }
}

function* brokenStreams(content: Uint8Array, form: () => MessageForm): Generator<Forgery> {
  const family = 'broken stream';
  for (let wrapper = 0; wrapper < 6; wrapper += 1) {
    yield { family, name: `definite ${wrapper}`, message: streamOf(form(), { definite: wrapper }) };
    yield { family, name: `endless ${wrapper}`, message: streamOf(form(), { endless: wrapper }) };
    yield { family, name: `two ends ${wrapper}`, message: streamOf(form(), { before: [wrapper, Uint8Array.of(0, 0)] }) };
    yield { family, name: `half an end ${wrapper}`, message: streamOf(form(), { before: [wrapper, Uint8Array.of(0)] }) };
  }
  for (const size of [1, 100, 128, content.length - 1]) {
    const segments = Array.from({ length: Math.ceil(content.length / size) }, (_, i) => content.subarray(i * size, (i + 1) * size));
    yield { family, name: `segments of ${size}`, message: streamOf(form(), { segments }) };
  }
  yield { family, name: 'an empty segment before', message: streamOf(form(), { segments: [new Uint8Array(), content] }) };
  yield { family, name: 'an empty segment after', message: streamOf(form(), { segments: [content, new Uint8Array()] }) };
  yield { family, name: 'no segment', message: streamOf(form(), { segments: [] }) };
  yield { family, name: 'one segment too long', message: streamOf(form(), { segments: [join(content, new Uint8Array(1000))] }) };
  const whole = streamOf(form());
  for (let length = 2; length < whole.length; length += Math.ceil(whole.length / 40)) {
    yield { family, name: `ends after ${length}`, message: whole.subarray(0, length) };
  }
}

/** What random damage of honest messages comes to: refused for no reason in particular. */
export function* damaged(messages: readonly Uint8Array[], count: number): Generator<Forgery> {
  const random = createRandom(20_260_602);
  for (const message of messages) {
    for (let at = 0; at < message.length; at += Math.ceil(message.length / 200)) {
      const out = Uint8Array.from(message);
      out[at] = (out[at] ?? 0) ^ (1 << Math.floor(random() * 8));
      yield { family: 'one bit', name: `${at}`, message: out };
    }
  }
  for (let i = 0; i < count; i += 1) {
    const message = mutate(messages, random);
    if (message.length > 0 && !messages.some((one) => Buffer.compare(one, message) === 0)) yield { family: 'random', name: `${i}`, message };
  }
}

/** The last value of a SignerInfo without unsigned attributes. */
function signatureOf(signer: Uint8Array): Uint8Array {
  return signer.subarray(signer.length - 256);
}
