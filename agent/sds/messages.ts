/**
 * Secret discovery's messages: requests into values with their bounds, and what a name means into Envoy's secrets. Each
 * X509-SVID and bundle is encoded once, however many streams it goes to; when it is sent is `conversation.ts`.
 */
import { createHash } from 'node:crypto';
import { loadMessages } from '../../proto/load.ts';
import type { Node__Output } from '../../proto/gen/envoy/config/core/v3/Node.ts';
import type { CertificateValidationContext } from '../../proto/gen/envoy/extensions/transport_sockets/tls/v3/CertificateValidationContext.ts';
import type { Secret as SecretMessage } from '../../proto/gen/envoy/extensions/transport_sockets/tls/v3/Secret.ts';
import type { DeltaDiscoveryRequest__Output } from '../../proto/gen/envoy/service/discovery/v3/DeltaDiscoveryRequest.ts';
import type { DeltaDiscoveryResponse } from '../../proto/gen/envoy/service/discovery/v3/DeltaDiscoveryResponse.ts';
import type { DiscoveryRequest__Output } from '../../proto/gen/envoy/service/discovery/v3/DiscoveryRequest.ts';
import type { DiscoveryResponse } from '../../proto/gen/envoy/service/discovery/v3/DiscoveryResponse.ts';
import type { Status__Output } from '../../proto/gen/google/rpc/Status.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import type { HeldJwtSvid, HeldX509Svid } from '../svids/held.ts';
import type { DeltaRequest } from './delta.ts';
import type { Said, Secret } from './dialect.ts';
import type { SecretRequest } from './state-of-the-world.ts';
import type { ProxyNode } from './validator.ts';

export const secretType = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret';
const spiffeValidatorType = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig';
const spiffeValidator = 'envoy.tls.cert_validator.spiffe';
const messageNames = [
  'envoy.extensions.transport_sockets.tls.v3.Secret',
  'envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig',
] as const;

/** Longer than any SPIFFE ID, and than most audiences. */
const longestName = 2_304;
/** Of what a client says about a response it could not use. */
const longestComplaint = 512;

/** @throws invalid `sds.type-url|name` */
export function readSecretRequest(message: DiscoveryRequest__Output): SecretRequest {
  checkType(message.type_url);
  checkLengths(message.resource_names);
  return { names: message.resource_names, nonce: message.response_nonce, rejected: complaintOf(message.error_detail) };
}

/** @throws invalid `sds.type-url|name` */
export function readDeltaRequest(message: DeltaDiscoveryRequest__Output): DeltaRequest {
  checkType(message.type_url);
  checkLengths(message.resource_names_subscribe);
  checkLengths(message.resource_names_unsubscribe);
  return {
    subscribe: message.resource_names_subscribe,
    unsubscribe: message.resource_names_unsubscribe,
    versions: new Map(Object.entries(message.initial_resource_versions)),
    nonce: message.response_nonce,
    rejected: complaintOf(message.error_detail),
  };
}

/** What a proxy says of itself; `undefined` when it says nothing, as in all requests but the first. */
export function readNode(node: Node__Output | null): ProxyNode | undefined {
  if (node === null) return undefined;
  const wish = node.metadata?.fields['disable_spiffe_cert_validation'];
  const version = node.user_agent_build_version?.version;
  return {
    disableSpiffeValidation: wish?.boolValue ?? wish?.stringValue,
    version: version === undefined || version === null ? undefined : { major: version.major_number, minor: version.minor_number },
  };
}

function checkType(type: string): void {
  if (type !== '' && type !== secretType) throw new SpiffeError('invalid', 'sds.type-url', 'only secrets of xDS v3 are served here');
}

function checkLengths(names: readonly string[]): void {
  if (names.some((name) => name.length > longestName)) throw new SpiffeError('invalid', 'sds.name', 'the name of a secret is too long');
}

function complaintOf(detail: Status__Output | null): string | undefined {
  return detail === null ? undefined : detail.message.slice(0, longestComplaint);
}

export function secretResponse({ version, nonce, secrets }: Said): DiscoveryResponse {
  return { version_info: version, nonce, type_url: secretType, resources: secrets.map(anyOf) };
}

export function deltaResponse({ nonce, secrets, removed }: Said): DeltaDiscoveryResponse {
  const resources = secrets.map((secret) => ({ name: secret.name, version: secret.version, resource: anyOf(secret) }));
  return { nonce, type_url: secretType, resources, removed_resources: [...removed] };
}

function anyOf(secret: Secret): { type_url: string; value: Buffer } {
  return { type_url: secretType, value: secret.encoded() };
}

/** Certificate revocation lists of a trust domain, PEM. The same object as long as the content is the same. */
export interface RevocationLists {
  readonly pem: Buffer;
}

/** How a bundle is given to Envoy. */
export interface BundleForm {
  readonly validator: 'spiffe' | 'authorities';
  /** None, as long as nothing revokes X509-SVIDs. */
  readonly revoked: (trustDomain: TrustDomain) => RevocationLists | undefined;
}

interface BundleSecret {
  readonly lists: RevocationLists | undefined;
  readonly secret: Secret;
}

const svidSecrets = new WeakMap<HeldX509Svid, Map<string, Secret>>();
const bundleSecrets = new WeakMap<Bundle, Map<string, BundleSecret>>();
const bundlePems = new WeakMap<Bundle, Buffer>();
/** Streams that get the same get it one after the other. */
let lastOfAll: Secret | undefined;

/** Certificate chain, leaf first, and key, both PEM. */
export function svidSecret(name: string, svid: HeldX509Svid): Secret {
  return kept(svidSecrets, svid, name, () => {
    const chain = Buffer.from(formatPemCertificates(svid.chain));
    const private_key = { inline_bytes: Buffer.from(svid.key.export({ type: 'pkcs8', format: 'pem' })) };
    // Of the public part: each chain has a key of its own.
    return composed(name, digest(chain), { tls_certificate: { certificate_chain: { inline_bytes: chain }, private_key } }, svid);
  });
}

export function bundleSecret(name: string, bundle: Bundle, form: BundleForm): Secret {
  const lists = form.revoked(bundle.trustDomain);
  const key = `${form.validator}\n${name}`;
  let byKey = bundleSecrets.get(bundle);
  if (byKey === undefined) bundleSecrets.set(bundle, (byKey = new Map<string, BundleSecret>()));
  const found = byKey.get(key);
  if (found !== undefined && found.lists === lists) return found.secret;
  const context: CertificateValidationContext = {
    ...(form.validator === 'spiffe' ? validatorOf([bundle]) : { trusted_ca: { inline_bytes: pemOf(bundle) } }),
    ...(lists !== undefined && { crl: { inline_bytes: lists.pem } }),
  };
  const encoded = encodeSecret({ name, validation_context: context });
  const secret: Secret = Object.freeze({ name, version: digest(encoded), encoded: () => encoded, svid: undefined });
  byKey.set(key, { lists, secret });
  return secret;
}

/** Each bundle for its own trust domain, which only the SPIFFE validator can keep apart. */
export function allBundlesSecret(name: string, bundles: ReadonlyMap<TrustDomain, Bundle>, revoked: BundleForm['revoked']): Secret {
  const sorted = [...bundles.values()].toSorted((a, b) => (a.trustDomain < b.trustDomain ? -1 : 1));
  const lists = sorted.flatMap(({ trustDomain }) => revoked(trustDomain)?.pem ?? []);
  const parts = sorted.map((bundle) => [bundle.trustDomain, digest(pemOf(bundle))]);
  const version = digest(Buffer.from(JSON.stringify([name, parts, lists.map(digest)])));
  if (lastOfAll?.version === version) return lastOfAll;
  const crl = lists.length === 0 ? {} : { crl: { inline_bytes: Buffer.concat(lists) } };
  let encoded: Buffer | undefined;
  // Not encoded before it is sent: each workload has a list of bundles of its own.
  const encode = (): Buffer => (encoded ??= encodeSecret({ name, validation_context: { ...validatorOf(sorted), ...crl } }));
  lastOfAll = Object.freeze({ name, version, encoded: encode, svid: undefined });
  return lastOfAll;
}

/** The token itself, for a header. */
export function tokenSecret(name: string, svid: HeldJwtSvid): Secret {
  const token = Buffer.from(svid.token);
  return composed(name, digest(token), { generic_secret: { secret: { inline_bytes: token } } }, undefined);
}

function composed(name: string, version: string, type: Omit<SecretMessage, 'name'>, svid: HeldX509Svid | undefined): Secret {
  const encoded = encodeSecret({ name, ...type });
  return Object.freeze({ name, version, encoded: () => encoded, svid });
}

function validatorOf(bundles: readonly Bundle[]): CertificateValidationContext {
  const config = messages()['envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig'];
  const trust_domains = bundles.map((bundle) => ({ name: bundle.trustDomain, trust_bundle: { inline_bytes: pemOf(bundle) } }));
  const typed_config = { type_url: spiffeValidatorType, value: config.serialize({ trust_domains }) };
  return { custom_validator_config: { name: spiffeValidator, typed_config } };
}

function encodeSecret(secret: SecretMessage): Buffer {
  return messages()['envoy.extensions.transport_sockets.tls.v3.Secret'].serialize(secret);
}

function messages(): ReturnType<typeof loadMessages<(typeof messageNames)[number]>> {
  return loadMessages(...messageNames);
}

function pemOf(bundle: Bundle): Buffer {
  let pem = bundlePems.get(bundle);
  if (pem === undefined) {
    pem = Buffer.from(formatPemCertificates(bundle.x509Authorities.map(({ certificate }) => certificate)));
    bundlePems.set(bundle, pem);
  }
  return pem;
}

function digest(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex').slice(0, 32);
}

function kept<K extends object>(cache: WeakMap<K, Map<string, Secret>>, key: K, name: string, make: () => Secret): Secret {
  let byName = cache.get(key);
  if (byName === undefined) cache.set(key, (byName = new Map<string, Secret>()));
  let secret = byName.get(name);
  if (secret === undefined) byName.set(name, (secret = make()));
  return secret;
}
