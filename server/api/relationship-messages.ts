/**
 * Federation relationships between SPIRE's messages and ours, whole or under a mask, with the words that its clients know.
 * Which relationships there may be besides is `trust-domains.ts`.
 */
import { bundleFromMessage, bundleToMessage } from '../../proto/convert/bundle.ts';
import type { FederationRelationship, FederationRelationship__Output } from '../../proto/gen/spire/api/types/FederationRelationship.ts';
import type { FederationRelationshipMask__Output } from '../../proto/gen/spire/api/types/FederationRelationshipMask.ts';
import { checkEndpointUrl } from '../../runtime/http-bundle.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId, type TrustDomain, trustDomainFromText } from '../../spiffe/id.ts';
import type { EndpointProfile, Relationship } from '../store/store.ts';

/** Which parts; absent means all of them. The trust domain has no bit and is always there. */
export type RelationshipMaskMessage = FederationRelationshipMask__Output | null | undefined;

export interface RelationshipDraft extends Relationship {
  /** Without taint marks, which are ours to set. */
  readonly bundle: Bundle | undefined;
}

export function relationshipToMessage(
  relationship: Relationship,
  bundle: Bundle | undefined,
  mask: RelationshipMaskMessage,
): FederationRelationship {
  const { profile } = relationship;
  const message: FederationRelationship = { trust_domain: relationship.trustDomain };
  if (mask?.bundle_endpoint_url ?? true) message.bundle_endpoint_url = relationship.endpointUrl;
  if (mask?.bundle_endpoint_profile ?? true) {
    // Present though empty: presence is the choice.
    if (profile.type === 'https_web') message.https_web = {};
    else message.https_spiffe = { endpoint_spiffe_id: profile.endpointId };
  }
  if ((mask?.trust_domain_bundle ?? true) && bundle !== undefined) message.trust_domain_bundle = bundleToMessage(bundle);
  return message;
}

/**
 * Every field is looked at, whichever of them an update takes, as in SPIRE.
 * @throws invalid `relationship.trust-domain|profile|endpoint-id|bundle`, `bundle-endpoint.url`
 */
export function relationshipFromMessage(message: FederationRelationship__Output): RelationshipDraft {
  const trustDomain = domainFromText(message.trust_domain);
  const endpointUrl = message.bundle_endpoint_url;
  checkEndpointUrl(endpointUrl);
  // Kept as it was written: clients compare it with what they have.
  return { trustDomain, endpointUrl, profile: profileFromMessage(message), bundle: bundleOf(message, trustDomain) };
}

/** A name, or an ID of which the path is dropped. @throws invalid `relationship.trust-domain` */
export function domainFromText(text: string): TrustDomain {
  try {
    return trustDomainFromText(text);
  } catch (error) {
    if (!isSpiffeError(error)) throw error;
    throw new SpiffeError('invalid', 'relationship.trust-domain', `failed to parse trust domain: ${error.message}`, { cause: error });
  }
}

function profileFromMessage(message: FederationRelationship__Output): EndpointProfile {
  if (message.https_web) return { type: 'https_web' };
  if (!message.https_spiffe) throw new SpiffeError('invalid', 'relationship.profile', 'bundle endpoint profile is required: https_web or https_spiffe');
  try {
    return { type: 'https_spiffe', endpointId: parseSpiffeId(message.https_spiffe.endpoint_spiffe_id) };
  } catch (error) {
    if (!isSpiffeError(error)) throw error;
    throw new SpiffeError('invalid', 'relationship.endpoint-id', `failed to parse endpoint SPIFFE ID: ${error.message}`, { cause: error });
  }
}

function bundleOf(message: FederationRelationship__Output, trustDomain: TrustDomain): Bundle | undefined {
  if (!message.trust_domain_bundle) return undefined;
  let bundle: Bundle;
  try {
    bundle = bundleFromMessage(message.trust_domain_bundle);
  } catch (error) {
    if (!isSpiffeError(error) || error.kind === 'internal') throw error;
    throw new SpiffeError('invalid', 'relationship.bundle', `failed to parse bundle: ${error.message}`, { cause: error });
  }
  if (bundle.trustDomain !== trustDomain) {
    const why = `trust domain bundle ("${bundle.trustDomain}") must match the trust domain of the federation relationship ("${trustDomain}")`;
    throw new SpiffeError('invalid', 'relationship.bundle', why);
  }
  return bundle;
}
