/**
 * Bundles that a program holds by itself: sets of them by trust domain, and their forms in files. Those that come from the
 * Workload API or from a bundle endpoint are kept by the sources.
 */
import { type Bundle, composeBundle, emptyBundle, type JwtAuthority, readX509Authority } from '../spiffe/bundle.ts';
import { formatBundleDocument, formatJwks, parseBundleDocument, parseJwks } from '../spiffe/bundle-document.ts';
import type { TrustDomain } from '../spiffe/id.ts';
import { formatPemCertificates, parsePemCertificates } from '../spiffe/pem.ts';
import { splitCertificates } from '../spiffe/x509/certificate.ts';
import { readDocument } from './document.ts';

/** Knows who may sign X509-SVIDs of which trust domain. */
export interface X509BundleSource {
  /** DER, one certificate each, never to be changed; `undefined` when the trust domain is not trusted. */
  x509BundleFor(trustDomain: TrustDomain): readonly Uint8Array[] | undefined;
}

/** Knows who may sign JWT-SVIDs of which trust domain. */
export interface JwtBundleSource {
  /** `undefined` when the trust domain is not trusted. */
  jwtBundleFor(trustDomain: TrustDomain): readonly JwtAuthority[] | undefined;
}

/** Knows who may sign WIT-SVIDs of which trust domain. */
export interface WitBundleSource {
  /** `undefined` when the trust domain is not trusted. */
  witBundleFor(trustDomain: TrustDomain): readonly JwtAuthority[] | undefined;
}

/** Bundles by trust domain, exchanged one by one; what it gives out is never changed. */
export interface BundleSet extends X509BundleSource, JwtBundleSource, WitBundleSource {
  bundleFor(trustDomain: TrustDomain): Bundle | undefined;
  /** In the order they were first set. */
  readonly bundles: readonly Bundle[];
  /** Puts the bundle in the place of the one that its trust domain had. */
  set(bundle: Bundle): void;
  /** Whether there was one. */
  delete(trustDomain: TrustDomain): boolean;
}

/** A set of these bundles; of two of one trust domain the later stays. */
export function createBundleSet(...bundles: readonly Bundle[]): BundleSet {
  const held = new Map(bundles.map((bundle) => [bundle.trustDomain, bundle]));
  return {
    bundleFor: (trustDomain) => held.get(trustDomain),
    x509BundleFor: (trustDomain) => x509AuthoritiesOf(held.get(trustDomain)),
    jwtBundleFor: (trustDomain) => held.get(trustDomain)?.jwtAuthorities,
    witBundleFor: (trustDomain) => held.get(trustDomain)?.witAuthorities,
    get bundles() {
      return [...held.values()];
    },
    set: (bundle) => void held.set(bundle.trustDomain, bundle),
    delete: (trustDomain) => held.delete(trustDomain),
  };
}

const lists = new WeakMap<Bundle, readonly Uint8Array[]>();

/** The same list for the same bundle, which lets the verifier keep what it parsed. */
export function x509AuthoritiesOf(bundle: Bundle | undefined): readonly Uint8Array[] | undefined {
  if (bundle === undefined) return undefined;
  let list = lists.get(bundle);
  if (list === undefined) {
    list = Object.freeze(bundle.x509Authorities.map(({ certificate }) => certificate));
    lists.set(bundle, list);
  }
  return list;
}

/**
 * A bundle of these X.509 authorities, one DER certificate each.
 * @throws invalid `bundle.x509-authority.malformed`
 */
export function bundleFromX509Authorities(trustDomain: TrustDomain, certificates: readonly Uint8Array[]): Bundle {
  const x509Authorities = certificates.map((certificate) => readX509Authority(certificate));
  return composeBundle({ ...emptyBundle(trustDomain), x509Authorities });
}

/** A bundle of these JWT authorities. @throws invalid `bundle.jwt-authority.key-id-taken` */
export function bundleFromJwtAuthorities(trustDomain: TrustDomain, authorities: readonly JwtAuthority[]): Bundle {
  return composeBundle({ ...emptyBundle(trustDomain), jwtAuthorities: authorities });
}

/**
 * X.509 authorities in PEM.
 * @throws invalid `pem.*`, `bundle.x509-authority.malformed`
 */
export function parseX509Bundle(trustDomain: TrustDomain, pem: string): Bundle {
  return bundleFromX509Authorities(trustDomain, parsePemCertificates(pem));
}

/**
 * X.509 authorities in DER, one after the other.
 * @throws invalid `certificate.*`, `der.*`, `bundle.x509-authority.malformed`
 */
export function parseX509BundleDer(trustDomain: TrustDomain, der: Uint8Array): Bundle {
  return bundleFromX509Authorities(trustDomain, splitCertificates(Uint8Array.from(der)));
}

/** JWT authorities as a JWK Set. @throws invalid `bundle-document.*`, `jwk.*`, `json.*` */
export function parseJwtBundle(trustDomain: TrustDomain, jwks: string | Uint8Array): Bundle {
  return bundleFromJwtAuthorities(trustDomain, parseJwks(jwks));
}

/** All of a trust domain, as bundle endpoints serve it. @throws invalid `bundle-document.*`, `jwk.*`, `json.*` */
export function parseBundle(trustDomain: TrustDomain, document: string | Uint8Array): Bundle {
  return parseBundleDocument(document, trustDomain);
}

/** @throws as `parseX509Bundle`; missing `file.missing`, invalid `file.too-large`, unavailable `file.read` */
export async function loadX509Bundle(trustDomain: TrustDomain, file: string): Promise<Bundle> {
  return parseX509Bundle(trustDomain, await readDocument(file));
}

/** @throws as `parseJwtBundle` and `loadX509Bundle` */
export async function loadJwtBundle(trustDomain: TrustDomain, file: string): Promise<Bundle> {
  return parseJwtBundle(trustDomain, await readDocument(file));
}

/** @throws as `parseBundle` and `loadX509Bundle` */
export async function loadBundle(trustDomain: TrustDomain, file: string): Promise<Bundle> {
  return parseBundle(trustDomain, await readDocument(file));
}

/** The X.509 authorities in PEM; empty without one. */
export function formatX509Bundle(bundle: Pick<Bundle, 'x509Authorities'>): string {
  return formatPemCertificates(bundle.x509Authorities.map(({ certificate }) => certificate));
}

/** The JWT authorities as a JWK Set. */
export function formatJwtBundle(bundle: Pick<Bundle, 'jwtAuthorities'>): string {
  return formatJwks(bundle);
}

/**
 * The document that a bundle endpoint serves.
 * @throws unsupported `jwk.unsupported` for an X.509 authority whose key has no JSON form
 */
export function formatBundle(bundle: Bundle): string {
  return formatBundleDocument(bundle);
}
