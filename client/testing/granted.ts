/**
 * What a fake Workload API grants, and its messages: the domain's values as an agent would send them. Streams and sockets are
 * `fake-workload-api.ts`.
 */
import type { JWTBundlesResponse } from '../../proto/gen/JWTBundlesResponse.ts';
import type { ValidateJWTSVIDResponse } from '../../proto/gen/ValidateJWTSVIDResponse.ts';
import type { WITBundlesResponse } from '../../proto/gen/WITBundlesResponse.ts';
import type { WITSVIDResponse } from '../../proto/gen/WITSVIDResponse.ts';
import type { X509BundlesResponse } from '../../proto/gen/X509BundlesResponse.ts';
import type { X509SVIDResponse } from '../../proto/gen/X509SVIDResponse.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { formatJwks, formatWitJwks } from '../../spiffe/bundle-document.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { trustDomainId } from '../../spiffe/id.ts';
import type { JsonObject, JsonValue } from '../../spiffe/json.ts';
import { formatPrivateJwk, type WitSvid } from '../../spiffe/wit-svid.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';

/** One identity to grant: its SPIFFE ID or its path. */
export interface FakeGrant {
  readonly identity: string;
  readonly hint?: string;
  /** Of X509-SVIDs and WIT-SVIDs; an hour and five minutes unless given. */
  readonly ttlSeconds?: number;
  /** Of JWT-SVIDs; five minutes unless given. */
  readonly jwtTtlSeconds?: number;
  readonly dnsNames?: readonly string[];
}

/** What everybody is granted now. `x509` and `wit` were made for it; JWT-SVIDs are made when they are asked for. */
export interface Granted {
  readonly grants: readonly FakeGrant[];
  readonly x509: readonly X509Svid[];
  readonly wit: readonly WitSvid[];
  readonly bundle: Bundle;
  readonly federated: readonly Bundle[];
}

export const noIdentity = new SpiffeError('denied', 'workload.no-identity', 'no identity issued');

export function x509Message({ x509, bundle, federated }: Granted): X509SVIDResponse {
  return {
    svids: x509.map((svid) => ({
      spiffe_id: svid.spiffeId,
      x509_svid: Buffer.concat(svid.chain),
      x509_svid_key: svid.privateKey.export({ type: 'pkcs8', format: 'der' }),
      bundle: certificatesOf(bundle),
      hint: svid.hint,
    })),
    federated_bundles: byTrustDomain(federated, certificatesOf),
  };
}

export function x509BundlesMessage({ bundle, federated }: Granted): X509BundlesResponse {
  return { bundles: byTrustDomain([bundle, ...federated], certificatesOf) };
}

export function jwtBundlesMessage({ bundle, federated }: Granted): JWTBundlesResponse {
  return { bundles: byTrustDomain([bundle, ...federated], (one) => Buffer.from(formatJwks(one))) };
}

export function witMessage({ wit }: Granted, wanted: string): WITSVIDResponse {
  const svids = wit.filter(({ spiffeId }) => wanted === '' || spiffeId === wanted);
  if (svids.length === 0) throw noIdentity;
  return {
    svids: svids.map(({ spiffeId, token, privateKey, algorithm, hint }) => ({
      spiffe_id: spiffeId,
      wit_svid: token,
      wit_svid_key: formatPrivateJwk(privateKey, algorithm),
      hint,
    })),
  };
}

export function witBundlesMessage({ bundle, federated }: Granted): WITBundlesResponse {
  return { bundles: byTrustDomain([bundle, ...federated], formatWitJwks) };
}

function certificatesOf({ x509Authorities }: Bundle): Buffer {
  return Buffer.concat(x509Authorities.map(({ certificate }) => certificate));
}

function byTrustDomain<T>(bundles: readonly Bundle[], format: (bundle: Bundle) => T): Record<string, T> {
  return Object.fromEntries(bundles.map((bundle) => [trustDomainId(bundle.trustDomain), format(bundle)]));
}

/** Agents answer InvalidArgument, whatever was wrong with a token. */
export function refusedAsInvalid<T>(validate: () => T): T {
  try {
    return validate();
  } catch (error) {
    if (error instanceof SpiffeError) throw new SpiffeError('invalid', error.reason, error.message);
    throw error;
  }
}

type StructMessage = NonNullable<ValidateJWTSVIDResponse['claims']>;

export function structOf(object: JsonObject): StructMessage {
  return { fields: Object.fromEntries(Object.entries(object).map(([name, value]) => [name, valueOf(value)])) };
}

function valueOf(value: JsonValue): NonNullable<StructMessage['fields']>[string] {
  if (typeof value === 'string') return { kind: 'stringValue', stringValue: value };
  if (typeof value === 'number' || typeof value === 'bigint') return { kind: 'numberValue', numberValue: Number(value) };
  if (typeof value === 'boolean') return { kind: 'boolValue', boolValue: value };
  if (value === null) return { kind: 'nullValue', nullValue: 'NULL_VALUE' };
  if (Array.isArray(value)) return { kind: 'listValue', listValue: { values: value.map(valueOf) } };
  return { kind: 'structValue', structValue: structOf(value as JsonObject) };
}
