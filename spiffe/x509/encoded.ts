/**
 * The larger pieces that certificates and requests are composed of: names, alternative names, extensions. Which pieces a
 * profile has, and in which order, is `draft.ts`.
 */
import { contextTag, derTag } from './der.ts';
import {
  encode,
  encodeAscii,
  encodeBoolean,
  encodeDirectoryString,
  encodeOctetString,
  encodeOid,
  encodeSequence,
  encodeSet,
} from './der-writer.ts';
import { nameForm } from './extensions.ts';
import { oid } from './names.ts';

/** The identifiers in use, encoded once. */
const oids: ReadonlyMap<string, Uint8Array> = new Map(Object.values(oid).map((dotted) => [dotted, encodeOid(dotted)]));

function oidBytes(dotted: string): Uint8Array {
  return oids.get(dotted) ?? encodeOid(dotted);
}

/** A Name of one attribute per RDN, in the order given; strings typed as Go types them. */
export function encodeName(attributes: readonly (readonly [type: string, value: string])[]): Uint8Array {
  return encodeSequence(
    ...attributes.map(([type, value]) => encodeSet(encodeSequence(oidBytes(type), encodeDirectoryString(value)))),
  );
}

/** GeneralNames: DNS names first, then URIs, as Go orders them. */
export function encodeNames(dnsNames: readonly string[], uris: readonly string[]): Uint8Array {
  return encodeSequence(
    ...dnsNames.map((name) => encodeAscii(nameForm.dns, name)),
    ...uris.map((uri) => encodeAscii(nameForm.uri, uri)),
  );
}

/** One Extension around the encoding of its value. */
export function encodeExtension(id: string, critical: boolean, value: Uint8Array): Uint8Array {
  return encodeSequence(oidBytes(id), ...(critical ? [encodeBoolean(true)] : []), encodeOctetString(value));
}

/** AuthorityKeyIdentifier with the key identifier alone. */
export function encodeAuthorityKeyId(keyId: Uint8Array): Uint8Array {
  return encodeSequence(encode(contextTag(0), keyId));
}

/** BasicConstraints without a path length; for a leaf the empty sequence, since false is the default. */
export function encodeBasicConstraints(isAuthority: boolean): Uint8Array {
  return isAuthority ? encodeSequence(encodeBoolean(true)) : encode(derTag.sequence);
}
