/**
 * Certificate extensions: read the ones SPIFFE needs, note the rest, refuse repeats. Used for certificates and for what
 * requests ask for; whether the values are acceptable is decided by whoever reads them.
 */
import { SpiffeError } from '../errors.ts';
import {
  asciiOf,
  atEnd,
  booleanOf,
  checkTree,
  contentOf,
  contextTag,
  derTag,
  enter,
  finish,
  namedBitsOf,
  oidOf,
  readElement,
  readOptional,
  readTagged,
  readWhole,
  smallIntegerOf,
  type DerCursor,
  type DerElement,
} from './der.ts';
import { oid } from './names.ts';

/** Tags of the GeneralName forms that are read [RFC 5280 4.2.1.6]. */
export const nameForm = {
  dns: contextTag(2),
  directory: contextTag(4, true),
  uri: contextTag(6),
} as const;

export interface SubjectAltName {
  readonly critical: boolean;
  /** Text as it stands, in order. */
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  /** Tags of the names of other forms, in order. */
  readonly others: readonly number[];
}

/** One base of a name constraint; `value` is set for URI and DNS forms alone. */
export interface Subtree {
  readonly form: number;
  readonly value: string | undefined;
}

/** What the extensions of one certificate say; views into what was read. */
export interface Extensions {
  /** Identifiers in the order they stand. */
  readonly order: readonly string[];
  readonly keyUsage: { readonly critical: boolean; readonly bits: number } | undefined;
  readonly extKeyUsage: { readonly critical: boolean; readonly purposes: readonly string[] } | undefined;
  readonly basicConstraints:
    | { readonly critical: boolean; readonly isAuthority: boolean; readonly pathLen: number | undefined }
    | undefined;
  readonly subjectAltName: SubjectAltName | undefined;
  readonly nameConstraints:
    | { readonly critical: boolean; readonly permitted: readonly Subtree[]; readonly excluded: readonly Subtree[] }
    | undefined;
  readonly subjectKeyId: Uint8Array | undefined;
  readonly authorityKeyId: Uint8Array | undefined;
  /** Critical ones that nothing here understands. */
  readonly unknownCritical: readonly string[];
}

type Draft = { -readonly [Field in keyof Extensions]: Extensions[Field] } & { unknownCritical: string[]; order: string[] };

const maxExtensions = 64;
const maxNames = 1024;

export const noExtensions: Extensions = Object.freeze(emptyExtensions());

/**
 * Reads `Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension`.
 * @throws invalid `der.*`, `extension.none|too-many|duplicate|default|empty|too-many-names|path-len|authority-key-id`
 */
export function readExtensions(element: DerElement): Extensions {
  const list = enter(element);
  const found = emptyExtensions();
  if (atEnd(list)) throw new SpiffeError('invalid', 'extension.none', 'list of extensions is empty');
  while (!atEnd(list)) {
    const cursor = enter(readTagged(list, derTag.sequence));
    const id = oidOf(readTagged(cursor, derTag.oid));
    const flag = readOptional(cursor, derTag.boolean);
    const critical = flag !== undefined && booleanOf(flag);
    if (flag !== undefined && !critical) throw notDefault();
    const value = contentOf(readTagged(cursor, derTag.octetString));
    finish(cursor);
    if (found.order.includes(id)) {
      throw new SpiffeError('invalid', 'extension.duplicate', 'an extension appears twice', { detail: { oid: id } });
    }
    if (found.order.push(id) > maxExtensions) throw new SpiffeError('invalid', 'extension.too-many', 'too many extensions');
    readKnown(found, id, critical, value);
  }
  return found;
}

function emptyExtensions(): Draft {
  return {
    order: [],
    keyUsage: undefined,
    extKeyUsage: undefined,
    basicConstraints: undefined,
    subjectAltName: undefined,
    nameConstraints: undefined,
    subjectKeyId: undefined,
    authorityKeyId: undefined,
    unknownCritical: [],
  };
}

function readKnown(found: Draft, id: string, critical: boolean, value: Uint8Array): void {
  switch (id) {
    case oid.keyUsage:
      found.keyUsage = { critical, bits: namedBitsOf(readWhole(value, derTag.bitString)) };
      return;
    case oid.extKeyUsage:
      found.extKeyUsage = { critical, purposes: readPurposes(value) };
      return;
    case oid.basicConstraints:
      found.basicConstraints = { critical, ...readBasicConstraints(value) };
      return;
    case oid.subjectAltName:
      found.subjectAltName = { critical, ...readNames(value) };
      return;
    case oid.nameConstraints:
      found.nameConstraints = { critical, ...readNameConstraints(value) };
      return;
    case oid.subjectKeyId:
      found.subjectKeyId = contentOf(readWhole(value, derTag.octetString));
      return;
    case oid.authorityKeyId:
      found.authorityKeyId = readAuthorityKeyId(value);
      return;
    case oid.certificatePolicies:
      // Without a required policy they constrain nothing, even when critical [RFC 5280 6.1.1 (c)]; what would require one
      // is another extension, which is refused when critical.
      return;
    default:
      if (critical) found.unknownCritical.push(id);
  }
}

function readPurposes(value: Uint8Array): readonly string[] {
  const cursor = enter(readWhole(value, derTag.sequence));
  const purposes: string[] = [];
  while (!atEnd(cursor)) purposes.push(oidOf(readTagged(cursor, derTag.oid)));
  if (purposes.length === 0) throw empty();
  return purposes;
}

function readBasicConstraints(value: Uint8Array): { isAuthority: boolean; pathLen: number | undefined } {
  const cursor = enter(readWhole(value, derTag.sequence));
  const flag = readOptional(cursor, derTag.boolean);
  const isAuthority = flag !== undefined && booleanOf(flag);
  if (flag !== undefined && !isAuthority) throw notDefault();
  const bound = readOptional(cursor, derTag.integer);
  finish(cursor);
  if (bound === undefined) return { isAuthority, pathLen: undefined };
  // A length without cA is a contradiction [RFC 5280 4.2.1.9].
  if (!isAuthority) throw new SpiffeError('invalid', 'extension.path-len', 'path length is given for a leaf');
  return { isAuthority, pathLen: smallIntegerOf(bound) };
}

function readNames(value: Uint8Array): { uris: readonly string[]; dnsNames: readonly string[]; others: readonly number[] } {
  const cursor = enter(readWhole(value, derTag.sequence));
  const uris: string[] = [];
  const dnsNames: string[] = [];
  const others: number[] = [];
  for (let count = 1; !atEnd(cursor); count += 1) {
    if (count > maxNames) throw new SpiffeError('invalid', 'extension.too-many-names', 'too many alternative names');
    const name = readElement(cursor);
    if (name.tag === nameForm.uri) uris.push(asciiOf(name));
    else if (name.tag === nameForm.dns) dnsNames.push(asciiOf(name));
    else {
      checkNameForm(name);
      others.push(name.tag);
    }
  }
  if (uris.length + dnsNames.length + others.length === 0) throw empty();
  return { uris, dnsNames, others };
}

/** otherName, rfc822Name, x400Address, directoryName, ediPartyName, iPAddress, registeredID. */
const otherNameTags: ReadonlySet<number> = new Set([0xa0, 0x81, 0xa3, 0xa4, 0xa5, 0x87, 0x88]);

function checkNameForm(name: DerElement): void {
  if (!otherNameTags.has(name.tag)) throw new SpiffeError('invalid', 'der.tag', 'alternative name has no known form');
  if ((name.tag & 0x20) !== 0) checkTree(name);
}

function readAuthorityKeyId(value: Uint8Array): Uint8Array | undefined {
  const cursor = enter(readWhole(value, derTag.sequence));
  const keyId = readOptional(cursor, contextTag(0));
  const issuer = readOptional(cursor, contextTag(1, true));
  const serial = readOptional(cursor, contextTag(2));
  finish(cursor);
  // They come together or not at all [RFC 5280 4.2.1.1].
  if ((issuer === undefined) !== (serial === undefined)) {
    throw new SpiffeError('invalid', 'extension.authority-key-id', 'authority key identifier names half of an issuer');
  }
  return keyId === undefined ? undefined : contentOf(keyId);
}

function readNameConstraints(value: Uint8Array): { permitted: readonly Subtree[]; excluded: readonly Subtree[] } {
  const cursor = enter(readWhole(value, derTag.sequence));
  const permitted = readOptional(cursor, contextTag(0, true));
  const excluded = readOptional(cursor, contextTag(1, true));
  finish(cursor);
  if (permitted === undefined && excluded === undefined) throw empty();
  return {
    permitted: permitted === undefined ? [] : readSubtrees(enter(permitted)),
    excluded: excluded === undefined ? [] : readSubtrees(enter(excluded)),
  };
}

function readSubtrees(cursor: DerCursor): readonly Subtree[] {
  const subtrees: Subtree[] = [];
  while (!atEnd(cursor)) {
    const subtree = enter(readTagged(cursor, derTag.sequence));
    const base = readElement(subtree);
    // minimum is always 0 and maximum absent, so DER leaves out both [RFC 5280 4.2.1.10].
    finish(subtree);
    const known = base.tag === nameForm.uri || base.tag === nameForm.dns;
    if (!known) checkNameForm(base);
    subtrees.push({ form: base.tag, value: known ? asciiOf(base) : undefined });
    if (subtrees.length > maxNames) throw new SpiffeError('invalid', 'extension.too-many-names', 'too many name constraints');
  }
  if (subtrees.length === 0) throw empty();
  return subtrees;
}

function notDefault(): SpiffeError {
  return new SpiffeError('invalid', 'extension.default', 'DER leaves out a value that is the default');
}

function empty(): SpiffeError {
  return new SpiffeError('invalid', 'extension.empty', 'an extension lists nothing');
}
