/**
 * The Workload API's messages as domain values. A message that breaks the rules is refused whole: nothing of it is used.
 */
import { loadWorkloadService } from '../proto/workload.ts';
import type { SpiffeWorkloadAPIDefinition } from '../proto/gen/SpiffeWorkloadAPI.ts';
import type { JWTBundlesResponse__Output } from '../proto/gen/JWTBundlesResponse.ts';
import type { JWTSVIDResponse__Output } from '../proto/gen/JWTSVIDResponse.ts';
import type { ValidateJWTSVIDResponse__Output } from '../proto/gen/ValidateJWTSVIDResponse.ts';
import type { WITBundlesResponse__Output } from '../proto/gen/WITBundlesResponse.ts';
import type { WITSVIDResponse__Output } from '../proto/gen/WITSVIDResponse.ts';
import type { X509BundlesResponse__Output } from '../proto/gen/X509BundlesResponse.ts';
import type { X509SVIDResponse__Output } from '../proto/gen/X509SVIDResponse.ts';
import type { JwtAuthority } from '../spiffe/bundle.ts';
import { parseJwks, parseWitJwks } from '../spiffe/bundle-document.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { parseSpiffeId, pathOf, type SpiffeId, type TrustDomain, trustDomainOf } from '../spiffe/id.ts';
import { type JwtSvid, parseJwtSvid } from '../spiffe/jwt-svid.ts';
import { receiveWitSvid, type WitSvid } from '../spiffe/wit-svid.ts';
import { splitCertificates } from '../spiffe/x509/certificate.ts';
import { parseX509Svid, type X509Svid } from '../spiffe/x509-svid.ts';

export type WorkloadService = SpiffeWorkloadAPIDefinition;

/** The service's methods, for the calls of `workload-api.ts`. */
export function workloadService(): WorkloadService {
  return loadWorkloadService();
}

/** X.509 authorities of a trust domain, one DER certificate each. Maps of them hold the own domain and federated ones. */
export type X509Bundles = ReadonlyMap<TrustDomain, readonly Uint8Array[]>;
/** JWT authorities by trust domain. */
export type JwtBundles = ReadonlyMap<TrustDomain, readonly JwtAuthority[]>;
/** WIT authorities, which sign nothing else. */
export type WitBundles = ReadonlyMap<TrustDomain, readonly JwtAuthority[]>;

/** All that one message grants: complete, never a difference [Workload API 4.3]. */
export interface X509Context {
  /** Never empty; the first is the default identity. */
  readonly svids: readonly X509Svid[];
  readonly bundles: X509Bundles;
}

/** A validated token as the agent reads it. */
export interface ValidatedToken {
  readonly spiffeId: SpiffeId;
  readonly claims: Readonly<Record<string, unknown>>;
}

/** @throws invalid `workload.message.*`, and as `parseX509Svid` and `splitCertificates` */
export function x509ContextFromMessage(message: X509SVIDResponse__Output): X509Context {
  if (message.svids.length === 0) throw malformed('the response holds no SVID');
  const hints = new Set<string>();
  const bundles = new Map<TrustDomain, readonly Uint8Array[]>();
  const svids: X509Svid[] = [];
  for (const item of message.svids) {
    const svid = parseX509Svid({ chain: own(item.x509_svid), pkcs8Key: own(item.x509_svid_key), hint: item.hint });
    if (svid.spiffeId !== item.spiffe_id) throw malformed('an SVID is not for the identity it is given as');
    if (item.bundle.length === 0) throw malformed('an SVID comes without its bundle');
    bundles.set(trustDomainOf(svid.spiffeId), splitCertificates(own(item.bundle)));
    // Of several with one hint the first counts [Workload API 5.2.1].
    if (item.hint !== '' && hints.has(item.hint)) continue;
    hints.add(item.hint);
    svids.push(svid);
  }
  for (const [key, der] of Object.entries(message.federated_bundles)) {
    const trustDomain = bundleKey(key);
    const authorities = splitCertificates(own(der));
    // Federated are foreign ones [Workload API 5.1]: what came with an SVID stands.
    if (!bundles.has(trustDomain)) bundles.set(trustDomain, authorities);
  }
  return Object.freeze({ svids: Object.freeze(svids), bundles });
}

/** @throws invalid `workload.message.*`, and as `splitCertificates` */
export function x509BundlesFromMessage(message: X509BundlesResponse__Output): X509Bundles {
  const entries = Object.entries(message.bundles);
  if (entries.length === 0) throw malformed('the response holds no bundle');
  return new Map(entries.map(([key, der]) => [bundleKey(key), splitCertificates(own(der))]));
}

/** @throws invalid `workload.message.*`, and as `parseJwks` */
export function jwtBundlesFromMessage(message: JWTBundlesResponse__Output): JwtBundles {
  const entries = Object.entries(message.bundles);
  if (entries.length === 0) throw malformed('the response holds no bundle');
  return new Map(entries.map(([key, jwks]) => [bundleKey(key), parseJwks(own(jwks))]));
}

/**
 * Tokens that were asked for with this audience.
 * @throws invalid `workload.message.*`, and as `parseJwtSvid`
 */
export function jwtSvidsFromMessage(message: JWTSVIDResponse__Output, audience: readonly string[]): readonly JwtSvid[] {
  if (message.svids.length === 0) throw malformed('the response holds no SVID');
  const hints = new Set<string>();
  const svids: JwtSvid[] = [];
  for (const item of message.svids) {
    const svid = parseJwtSvid(item.svid, item.hint);
    if (svid.spiffeId !== item.spiffe_id) throw malformed('a token is not for the identity it is given as');
    // [Workload API 6.2.1]; empty names name nobody.
    if (!audience.every((name) => name === '' || svid.audience.includes(name))) {
      throw malformed('a token is not for the audience it was asked for');
    }
    // Of several with one hint the first counts.
    if (item.hint !== '' && hints.has(item.hint)) continue;
    hints.add(item.hint);
    svids.push(svid);
  }
  return Object.freeze(svids);
}

/** @throws invalid `workload.message.*`, and as `parseWitJwks` */
export function witBundlesFromMessage(message: WITBundlesResponse__Output): WitBundles {
  const entries = Object.entries(message.bundles);
  if (entries.length === 0) throw malformed('the response holds no bundle');
  return new Map(entries.map(([key, jwks]) => [bundleKey(key), parseWitJwks(jwks)]));
}

/**
 * Tokens with their keys, the default identity's first.
 * @throws invalid `workload.message.*`, and as `receiveWitSvid`
 */
export function witSvidsFromMessage(message: WITSVIDResponse__Output): readonly WitSvid[] {
  if (message.svids.length === 0) throw malformed('the response holds no SVID');
  const hints = new Set<string>();
  const svids: WitSvid[] = [];
  for (const item of message.svids) {
    const svid = receiveWitSvid(item.wit_svid, item.wit_svid_key, item.hint);
    if (svid.spiffeId !== item.spiffe_id) throw malformed('a token is not for the identity it is given as');
    // Of several with one hint the first counts [Workload API 7.2.1].
    if (item.hint !== '' && hints.has(item.hint)) continue;
    hints.add(item.hint);
    svids.push(svid);
  }
  return Object.freeze(svids);
}

/** @throws invalid `workload.message.*`, and the `id.*` reasons */
export function validatedFromMessage(message: ValidateJWTSVIDResponse__Output): ValidatedToken {
  if (message.claims === null) throw malformed('the response holds no claims');
  const claims = Object.fromEntries(Object.entries(message.claims.fields ?? {}).map(([name, value]) => [name, plainValue(value)]));
  return { spiffeId: parseSpiffeId(message.spiffe_id), claims: Object.freeze(claims) };
}

interface StructValue {
  readonly kind?: string | undefined;
  readonly nullValue?: unknown;
  readonly numberValue?: number | undefined;
  readonly stringValue?: string | undefined;
  readonly boolValue?: boolean | undefined;
  readonly structValue?: { readonly fields?: Readonly<Record<string, StructValue>> | null } | null | undefined;
  readonly listValue?: { readonly values?: readonly StructValue[] | null } | null | undefined;
}

function plainValue(value: StructValue): unknown {
  if (value.listValue !== undefined && value.listValue !== null) return (value.listValue.values ?? []).map(plainValue);
  if (value.structValue !== undefined && value.structValue !== null) {
    return Object.fromEntries(Object.entries(value.structValue.fields ?? {}).map(([name, item]) => [name, plainValue(item)]));
  }
  return value.stringValue ?? value.numberValue ?? value.boolValue ?? null;
}

function bundleKey(key: string): TrustDomain {
  const id = parseSpiffeId(key);
  if (pathOf(id) !== '') throw malformed('a bundle is not given under its trust domain');
  return trustDomainOf(id);
}

/** Decoded bytes are a window on the whole message, which would be kept as long as they are. */
function own(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(bytes);
}

function malformed(message: string): SpiffeError {
  return new SpiffeError('invalid', 'workload.message.malformed', message);
}
