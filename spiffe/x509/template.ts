/**
 * The hot path of issuing: what all leaves of one authority have in common is encoded once, and each leaf is written into
 * one buffer. Yields the same bytes as `draftLeaf`; checking and signing come after, as for any draft.
 */
import { contextTag, derTag } from './der.ts';
import {
  encodeExplicit,
  encodeOctetString,
  encodeSequence,
  encodeSmallInteger,
  encodeTime,
  encodeUnsigned,
  headerLength,
  writeHeader,
} from './der-writer.ts';
import { encodeLeafConstants, encodeLeafSubject, type Draft, type Issuer, type LeafFields, type LeafProfile } from './draft.ts';
import { encodeAuthorityKeyId, encodeExtension, encodeNames } from './encoded.ts';
import { oid, signatureSchemes } from './names.ts';
import { keyIdOfBits, readPublicKeyInfo } from './public-key.ts';

/** Prepared for one authority and profile; holds nothing of any leaf. */
export interface Template {
  readonly profile: LeafProfile;
  readonly issuer: Issuer;
  /**
   * @throws invalid `der.*` when the public key is none
   */
  fill(fields: LeafFields): Draft;
}

const keyIdBytes = 20;
const version3 = encodeExplicit(0, encodeSmallInteger(2));
const emptyKeyId = encodeOctetString(new Uint8Array(keyIdBytes));
/** Everything of the extension but the identifier itself, which ends it. */
const subjectKeyIdHead = encodeExtension(oid.subjectKeyId, false, emptyKeyId).subarray(0, -keyIdBytes);

export function prepareTemplate(profile: LeafProfile, issuer: Issuer): Template {
  const afterSerial = concatenate(signatureSchemes[issuer.signatureAlgorithm].identifier, issuer.subject);
  const constants = { ec: concatenate(...encodeLeafConstants(false)), rsa: concatenate(...encodeLeafConstants(true)) };
  const authorityKeyId = encodeExtension(oid.authorityKeyId, false, encodeAuthorityKeyId(issuer.keyId));

  const fill = (fields: LeafFields): Draft => {
    const { algorithm, key } = readPublicKeyInfo(fields.publicKey);
    const extensions = [
      algorithm === oid.rsaEncryption ? constants.rsa : constants.ec,
      subjectKeyIdHead,
      keyIdOfBits(key),
      authorityKeyId,
      encodeExtension(oid.subjectAltName, false, encodeNames(fields.dnsNames, [fields.spiffeId])),
    ];
    const head = [
      version3,
      encodeUnsigned(fields.serial),
      afterSerial,
      encodeSequence(encodeTime(fields.notBeforeAt), encodeTime(fields.notAfterAt)),
      fields.subject ?? encodeLeafSubject(fields.dnsNames),
      fields.publicKey,
    ];
    return { profile, tbs: writeBody(head, extensions) };
  };
  return Object.freeze({ profile, issuer, fill });
}

/** Templates by authority and profile, each prepared when first asked for and kept as long as the issuer object is. */
export function createTemplates(): (profile: LeafProfile, issuer: Issuer) => Template {
  const byIssuer = new WeakMap<Issuer, Map<LeafProfile, Template>>();
  return (profile, issuer) => {
    const known = byIssuer.get(issuer) ?? new Map<LeafProfile, Template>();
    const template = known.get(profile) ?? prepareTemplate(profile, issuer);
    byIssuer.set(issuer, known.set(profile, template));
    return template;
  };
}

function writeBody(head: readonly Uint8Array[], extensions: readonly Uint8Array[]): Uint8Array {
  const listed = lengthOf(extensions);
  const wrapped = headerLength(listed) + listed;
  const body = lengthOf(head) + headerLength(wrapped) + wrapped;
  const out = new Uint8Array(headerLength(body) + body);
  let at = writeParts(out, writeHeader(out, 0, derTag.sequence, body), head);
  at = writeHeader(out, at, contextTag(3, true), wrapped);
  at = writeHeader(out, at, derTag.sequence, listed);
  writeParts(out, at, extensions);
  return out;
}

function writeParts(out: Uint8Array, from: number, parts: readonly Uint8Array[]): number {
  let at = from;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return at;
}

function lengthOf(parts: readonly Uint8Array[]): number {
  let length = 0;
  for (const part of parts) length += part.length;
  return length;
}

function concatenate(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(lengthOf(parts));
  writeParts(out, 0, parts);
  return out;
}
