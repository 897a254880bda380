/**
 * Domain values to the Workload API's messages. Each SVID and bundle is encoded once, however many workloads it goes to;
 * what is sent to whom is `api.ts`.
 */
import type { Struct } from '../../proto/gen/google/protobuf/Struct.ts';
import type { Value } from '../../proto/gen/google/protobuf/Value.ts';
import type { JWTBundlesResponse } from '../../proto/gen/JWTBundlesResponse.ts';
import type { JWTSVIDResponse } from '../../proto/gen/JWTSVIDResponse.ts';
import type { WITBundlesResponse } from '../../proto/gen/WITBundlesResponse.ts';
import type { WITSVIDResponse } from '../../proto/gen/WITSVIDResponse.ts';
import type { X509BundlesResponse } from '../../proto/gen/X509BundlesResponse.ts';
import type { X509SVIDResponse } from '../../proto/gen/X509SVIDResponse.ts';
import { formatJwks, formatWitJwks } from '../../spiffe/bundle-document.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { trustDomainId, type TrustDomain } from '../../spiffe/id.ts';
import { isJsonArray, isJsonObject, type JsonObject, type JsonValue } from '../../spiffe/json.ts';
import type { WorkloadUpdate } from '../svids/cache.ts';
import { formatPrivateJwk } from '../../spiffe/wit-svid.ts';
import type { HeldJwtSvid, HeldWitSvid, HeldX509Svid } from '../svids/held.ts';

type Bundles = ReadonlyMap<TrustDomain, Bundle>;

interface SvidBytes {
  readonly chain: Buffer;
  readonly key: Buffer;
}

const svidBytes = new WeakMap<HeldX509Svid, SvidBytes>();
const bundleBytes = new WeakMap<Bundle, Buffer>();
const bundleJwks = new WeakMap<Bundle, Buffer>();

/** The complete state [Workload API 5.2.1]: every identity that has an SVID, the default first. */
export function x509SvidResponse(update: WorkloadUpdate, own: TrustDomain): X509SVIDResponse {
  const ownBundle = update.bundles.get(own);
  const federated = new Map(update.bundles);
  federated.delete(own);
  return {
    svids: update.identities.map(({ entry, svid }) => {
      const { chain, key } = bytesOfSvid(svid);
      return {
        spiffe_id: svid.spiffeId,
        x509_svid: chain,
        x509_svid_key: key,
        bundle: ownBundle === undefined ? Buffer.alloc(0) : certificatesOf(ownBundle),
        hint: entry.hint,
      };
    }),
    federated_bundles: byTrustDomain(federated, certificatesOf),
  };
}

export function x509BundlesResponse(bundles: Bundles): X509BundlesResponse {
  return { bundles: byTrustDomain(bundles, certificatesOf) };
}

export function jwtBundlesResponse(bundles: Bundles): JWTBundlesResponse {
  return { bundles: byTrustDomain(bundles, jwksOf) };
}

export function jwtSvidResponse(svids: readonly { readonly entry: RegistrationEntry; readonly svid: HeldJwtSvid }[]): JWTSVIDResponse {
  return { svids: svids.map(({ entry, svid }) => ({ spiffe_id: svid.spiffeId, svid: svid.token, hint: entry.hint })) };
}

export function witBundlesResponse(bundles: Bundles): WITBundlesResponse {
  return { bundles: Object.fromEntries([...bundles].map(([name, bundle]) => [trustDomainId(name), formatWitJwks(bundle)])) };
}

/** The complete state [Workload API 7.2.1]; the key is JWK text, unlike that of an X509-SVID. */
export function witSvidResponse(svids: readonly { readonly entry: RegistrationEntry; readonly svid: HeldWitSvid }[]): WITSVIDResponse {
  return {
    svids: svids.map(({ entry, svid }) => ({
      spiffe_id: svid.spiffeId,
      wit_svid: svid.token,
      wit_svid_key: formatPrivateJwk(svid.key, svid.algorithm),
      hint: entry.hint,
    })),
  };
}

/** Claims as a Struct; an audience is always a list, whatever the token had. */
export function claimsToStruct(claims: JsonObject, audience: readonly string[]): Struct {
  return structOf({ ...claims, aud: audience });
}

function structOf(object: JsonObject): Struct {
  return { fields: Object.fromEntries(Object.entries(object).map(([name, value]) => [name, valueOf(value)])) };
}

function valueOf(value: JsonValue): Value {
  if (value === null) return { nullValue: 'NULL_VALUE' };
  if (typeof value === 'string') return { stringValue: value };
  if (typeof value === 'boolean') return { boolValue: value };
  // A Struct has no other numbers than doubles.
  if (typeof value === 'number' || typeof value === 'bigint') return { numberValue: Number(value) };
  if (isJsonArray(value)) return { listValue: { values: value.map(valueOf) } };
  return isJsonObject(value) ? { structValue: structOf(value) } : { nullValue: 'NULL_VALUE' };
}

/** Keys are trust domain IDs without a trailing slash [Workload API 5.1]. */
function byTrustDomain(bundles: Bundles, encode: (bundle: Bundle) => Buffer): Record<string, Buffer> {
  return Object.fromEntries([...bundles].map(([name, bundle]) => [trustDomainId(name), encode(bundle)]));
}

function bytesOfSvid(svid: HeldX509Svid): SvidBytes {
  let bytes = svidBytes.get(svid);
  if (bytes === undefined) {
    bytes = { chain: Buffer.concat(svid.chain), key: svid.key.export({ type: 'pkcs8', format: 'der' }) };
    svidBytes.set(svid, bytes);
  }
  return bytes;
}

function certificatesOf(bundle: Bundle): Buffer {
  let bytes = bundleBytes.get(bundle);
  if (bytes === undefined) {
    bytes = Buffer.concat(bundle.x509Authorities.map((authority) => authority.certificate));
    bundleBytes.set(bundle, bytes);
  }
  return bytes;
}

function jwksOf(bundle: Bundle): Buffer {
  let bytes = bundleJwks.get(bundle);
  if (bytes === undefined) {
    bytes = Buffer.from(formatJwks(bundle), 'utf8');
    bundleJwks.set(bundle, bytes);
  }
  return bytes;
}
