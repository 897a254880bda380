/**
 * The bundle of a trust domain: the authorities whose signatures count there, with their taint marks. Values and the
 * steps from one to the next; the document they travel in is `bundle-document.ts`, and bundles of different trust
 * domains never mix here [Federation 4.2].
 */
import type { KeyObject } from 'node:crypto';
import { X509Certificate } from 'node:crypto';

import { SpiffeError } from './errors.ts';
import type { TrustDomain } from './id.ts';
import { readJwtKey } from './jwt-key.ts';

/** A certificate that X509-SVIDs end in. */
export interface X509Authority {
  /** One certificate, DER. Never mutated. */
  readonly certificate: Uint8Array;
  /** What it signed is to be replaced; it still counts until it is removed. */
  readonly tainted: boolean;
}

/** A key that signs JWT-SVIDs, or WIT-SVIDs. */
export interface JwtAuthority {
  readonly keyId: string;
  /** SubjectPublicKeyInfo, DER. Never mutated. */
  readonly publicKey: Uint8Array;
  /** Epoch milliseconds; `undefined` when it was not said. */
  readonly expiresAt: number | undefined;
  readonly tainted: boolean;
}

/** Frozen. Equal certificates do not repeat, nor do equal key ids, of whichever kind of token [WIT-SVID 6.1]. */
export interface Bundle {
  readonly trustDomain: TrustDomain;
  readonly x509Authorities: readonly X509Authority[];
  readonly jwtAuthorities: readonly JwtAuthority[];
  /** Keys that sign WIT-SVIDs, and nothing else: told apart from those for JWT-SVIDs by the member they are in. */
  readonly witAuthorities: readonly JwtAuthority[];
  /** 0 means none. */
  readonly refreshHintSeconds: number;
  /** One more with every change; 64 bits [Trust Domain and Bundle 4.1.1]. */
  readonly sequence: bigint;
}

type AuthorityField = 'x509Authorities' | 'jwtAuthorities' | 'witAuthorities';

/** Authorities to bring together; without the member there are none for WIT-SVIDs. */
export type Authorities = Pick<Bundle, 'x509Authorities' | 'jwtAuthorities'> & Partial<Pick<Bundle, 'witAuthorities'>>;

/** A bundle as it is written down where most trust domains have no WIT authorities. */
export type BundleFields = Authorities & Omit<Bundle, AuthorityField>;

/** A step of a bundle; when nothing changed, `bundle` is the one that was given. */
export interface BundleStep {
  readonly bundle: Bundle;
  readonly changed: boolean;
}

const maxKeyIdBytes = 1024;
const noAuthorities: Pick<Bundle, AuthorityField> = { x509Authorities: [], jwtAuthorities: [], witAuthorities: [] };

/** A bundle without authorities: nothing of the trust domain counts. */
export function emptyBundle(trustDomain: TrustDomain): Bundle {
  return freezeBundle({ ...noAuthorities, trustDomain, refreshHintSeconds: 0, sequence: 0n });
}

/**
 * A frozen bundle without repeats.
 * @throws invalid `bundle.jwt-authority.key-id-taken`
 */
export function composeBundle(fields: BundleFields): Bundle {
  const { bundle } = appendAuthorities(freezeBundle({ ...fields, ...noAuthorities }), fields);
  return freezeBundle({ ...bundle, sequence: fields.sequence });
}

/**
 * Takes in one certificate as an authority.
 * @throws invalid `bundle.x509-authority.malformed`
 */
export function readX509Authority(certificate: Uint8Array, tainted = false): X509Authority {
  parseAuthorityCertificate(certificate);
  return Object.freeze({ certificate, tainted });
}

/**
 * Takes in a public key as an authority.
 * @throws invalid `bundle.jwt-authority.key-id`, `jwt-key.malformed`, unsupported `jwt-key.unsupported`
 */
export function readJwtAuthority(fields: JwtAuthority): JwtAuthority {
  const length = Buffer.byteLength(fields.keyId);
  if (length === 0 || length > maxKeyIdBytes) {
    throw new SpiffeError('invalid', 'bundle.jwt-authority.key-id', 'JWT authority has no key ID, or one that is too long');
  }
  readJwtKey(fields.publicKey);
  return Object.freeze({ ...fields });
}

/**
 * Adds the authorities the bundle lacks, after those it has. A certificate is there when the bytes are, a key when its
 * id and bytes are; marks and expiry of what is there stay.
 * @throws invalid `bundle.jwt-authority.key-id-taken` for the id of another key, or of a key for the other kind of token
 */
export function appendAuthorities(bundle: Bundle, added: Authorities): BundleStep {
  const x509 = new Map(bundle.x509Authorities.map((authority) => [bytesKey(authority.certificate), authority]));
  for (const authority of added.x509Authorities) {
    const key = bytesKey(authority.certificate);
    if (!x509.has(key)) x509.set(key, authority);
  }
  const jwtAuthorities = withKeys(bundle.jwtAuthorities, added.jwtAuthorities);
  const witAuthorities = withKeys(bundle.witAuthorities, added.witAuthorities ?? []);
  const jwtKeyIds = new Set(jwtAuthorities.map(({ keyId }) => keyId));
  if (witAuthorities.some(({ keyId }) => jwtKeyIds.has(keyId))) throw keyIdTaken();
  return stepTo(bundle, { x509Authorities: [...x509.values()], jwtAuthorities, witAuthorities });
}

function withKeys(held: readonly JwtAuthority[], added: readonly JwtAuthority[]): readonly JwtAuthority[] {
  const keys = new Map(held.map((authority) => [authority.keyId, authority]));
  for (const authority of added) {
    const known = keys.get(authority.keyId);
    if (known === undefined) keys.set(authority.keyId, authority);
    else if (!bytesEqual(known.publicKey, authority.publicKey)) throw keyIdTaken();
  }
  return [...keys.values()];
}

function keyIdTaken(): SpiffeError {
  return new SpiffeError('invalid', 'bundle.jwt-authority.key-id-taken', 'key ID belongs to another authority');
}

/**
 * Adds to the first bundle what only the second has.
 * @throws invalid `bundle.trust-domain.mixed`, `bundle.jwt-authority.key-id-taken`
 */
export function mergeBundle(bundle: Bundle, other: Bundle): BundleStep {
  if (bundle.trustDomain !== other.trustDomain) {
    throw new SpiffeError('invalid', 'bundle.trust-domain.mixed', 'bundles of different trust domains cannot be merged');
  }
  return appendAuthorities(bundle, other);
}

/** Drops the authorities that expired before the instant; a key without expiry stays. */
export function pruneBundle(bundle: Bundle, before: number): BundleStep {
  const lasts = ({ expiresAt }: JwtAuthority): boolean => expiresAt === undefined || expiresAt >= before;
  return stepTo(bundle, {
    x509Authorities: bundle.x509Authorities.filter((authority) => x509AuthorityExpiresAt(authority) >= before),
    jwtAuthorities: bundle.jwtAuthorities.filter(lasts),
    witAuthorities: bundle.witAuthorities.filter(lasts),
  });
}

/** Marks the authority with this certificate. @throws missing `bundle.x509-authority.missing` */
export function taintX509Authority(bundle: Bundle, certificate: Uint8Array): BundleStep {
  return stepTo(bundle, { x509Authorities: marked(bundle.x509Authorities, findX509Authority(bundle, certificate)) });
}

/** Marks the authority with this key id, for either kind of token. @throws missing `bundle.jwt-authority.missing` */
export function taintJwtAuthority(bundle: Bundle, keyId: string): BundleStep {
  const found = findJwtAuthority(bundle, keyId);
  return stepTo(bundle, {
    jwtAuthorities: marked(bundle.jwtAuthorities, found),
    witAuthorities: marked(bundle.witAuthorities, found),
  });
}

function marked<T extends { readonly tainted: boolean }>(authorities: readonly T[], found: T): readonly T[] {
  return authorities.map((authority) => (authority === found ? Object.freeze({ ...found, tainted: true }) : authority));
}

/** Takes the authority out: what it signed counts no more. @throws missing `bundle.x509-authority.missing` */
export function removeX509Authority(bundle: Bundle, certificate: Uint8Array): BundleStep {
  const found = findX509Authority(bundle, certificate);
  return stepTo(bundle, { x509Authorities: bundle.x509Authorities.filter((authority) => authority !== found) });
}

/**
 * Takes the authority out, for either kind of token: what it signed counts no more.
 * @throws missing `bundle.jwt-authority.missing`
 */
export function removeJwtAuthority(bundle: Bundle, keyId: string): BundleStep {
  const found = findJwtAuthority(bundle, keyId);
  const isOther = (authority: JwtAuthority): boolean => authority !== found;
  return stepTo(bundle, {
    jwtAuthorities: bundle.jwtAuthorities.filter(isOther),
    witAuthorities: bundle.witAuthorities.filter(isOther),
  });
}

/** Equal in everything, the order of authorities and the sequence included. */
export function bundleEquals(a: Bundle, b: Bundle): boolean {
  return a.sequence === b.sequence && bundleContentEquals(a, b);
}

/** Equal but for the sequence: publishing the one after the other would change nothing. */
export function bundleContentEquals(a: Bundle, b: Bundle): boolean {
  return (
    a.trustDomain === b.trustDomain &&
    a.refreshHintSeconds === b.refreshHintSeconds &&
    sameList(a.x509Authorities, b.x509Authorities, x509AuthorityEquals) &&
    sameList(a.jwtAuthorities, b.jwtAuthorities, jwtAuthorityEquals) &&
    sameList(a.witAuthorities, b.witAuthorities, jwtAuthorityEquals)
  );
}

const expiries = new WeakMap<X509Authority, number>();

/** When the certificate ends, epoch milliseconds. @throws invalid `bundle.x509-authority.malformed` */
export function x509AuthorityExpiresAt(authority: X509Authority): number {
  const known = expiries.get(authority);
  if (known !== undefined) return known;
  const expiresAt = Date.parse(parseAuthorityCertificate(authority.certificate).validTo);
  expiries.set(authority, expiresAt);
  return expiresAt;
}

/**
 * A trust anchor as whoever made it wrote it: one certificate, whatever names and extensions it has. Read leniently on
 * purpose: one that our strict reader refuses vouches for nobody, but must not cost a foreign bundle its other ones.
 * @throws invalid `bundle.x509-authority.malformed`
 */
export function parseAuthorityCertificate(der: Uint8Array): X509Certificate {
  let certificate: X509Certificate;
  let key: KeyObject;
  try {
    certificate = new X509Certificate(der);
    // Decoded when asked for only; a certificate without a readable key can vouch for nothing.
    key = certificate.publicKey;
  } catch (cause) {
    throw malformed(cause);
  }
  // The reader takes PEM as well, and does not mind what follows.
  const isWhole = bytesEqual(certificate.raw, der) && key.type === 'public';
  if (!isWhole || Number.isNaN(Date.parse(certificate.validTo))) throw malformed();
  return certificate;
}

function malformed(cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'bundle.x509-authority.malformed', 'X.509 authority is not one DER certificate', { cause });
}

function stepTo(bundle: Bundle, change: Partial<Pick<Bundle, AuthorityField>>): BundleStep {
  const next = freezeBundle({ ...bundle, ...change, sequence: bundle.sequence + 1n });
  return bundleContentEquals(bundle, next) ? { bundle, changed: false } : { bundle: next, changed: true };
}

function freezeBundle(bundle: Bundle): Bundle {
  return Object.freeze({
    ...bundle,
    x509Authorities: Object.freeze([...bundle.x509Authorities]),
    jwtAuthorities: Object.freeze([...bundle.jwtAuthorities]),
    witAuthorities: Object.freeze([...bundle.witAuthorities]),
  });
}

function findX509Authority(bundle: Bundle, certificate: Uint8Array): X509Authority {
  const found = bundle.x509Authorities.find((authority) => bytesEqual(authority.certificate, certificate));
  if (found === undefined) throw new SpiffeError('missing', 'bundle.x509-authority.missing', 'no such X.509 authority');
  return found;
}

function findJwtAuthority(bundle: Bundle, keyId: string): JwtAuthority {
  const found = [...bundle.jwtAuthorities, ...bundle.witAuthorities].find((authority) => authority.keyId === keyId);
  if (found === undefined) throw new SpiffeError('missing', 'bundle.jwt-authority.missing', 'no such JWT or WIT authority');
  return found;
}

function x509AuthorityEquals(a: X509Authority, b: X509Authority): boolean {
  return a === b || (a.tainted === b.tainted && bytesEqual(a.certificate, b.certificate));
}

function jwtAuthorityEquals(a: JwtAuthority, b: JwtAuthority): boolean {
  return (
    a === b ||
    (a.keyId === b.keyId && a.tainted === b.tainted && a.expiresAt === b.expiresAt && bytesEqual(a.publicKey, b.publicKey))
  );
}

function sameList<T>(a: readonly T[], b: readonly T[], same: (x: T, y: T) => boolean): boolean {
  return a.length === b.length && a.every((item, index) => same(item, b[index] as T));
}

function bytesEqual(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function bytesKey(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}
