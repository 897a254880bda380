/**
 * SPIRE's trust domain service: relationships with other trust domains, made, shown, changed and ended by operators, and
 * their bundles fetched when asked. Fetching them in time is federation's.
 */
import type { FederationRelationship, FederationRelationship__Output } from '../../proto/gen/spire/api/types/FederationRelationship.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { Refresher } from '../federation/refresh.ts';
import type { Relationships } from '../federation/relationships.ts';
import type { Relationship, Store } from '../store/store.ts';
import { untainted } from './bundles.ts';
import { type Caller, scopeOf } from './caller.ts';
import type { Handlers } from './handlers.ts';
import { type ItemStatus, okStatus, statusOf } from './item-status.ts';
import { domainFromText, relationshipFromMessage, type RelationshipMaskMessage, relationshipToMessage } from './relationship-messages.ts';

export interface TrustDomainsDeps {
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  readonly relationships: Pick<Relationships, 'get' | 'list'>;
  readonly bundles: { get(trustDomain: TrustDomain): Bundle | undefined };
  readonly refresher: Pick<Refresher, 'refresh'>;
  readonly store: Pick<Store, 'createRelationship' | 'updateRelationship' | 'deleteRelationship'>;
}

interface ItemResult {
  status: ItemStatus;
  federation_relationship?: FederationRelationship;
}

export function createTrustDomainsApi(deps: TrustDomainsDeps): Handlers<'spire.api.server.trustdomain.v1.TrustDomain'> {
  const { trustDomain, clock, relationships, bundles, refresher, store } = deps;

  const shown = (relationship: Relationship, mask: RelationshipMaskMessage): FederationRelationship =>
    relationshipToMessage(relationship, bundles.get(relationship.trustDomain), mask);

  /** One after the other: two items may speak of the same trust domain. */
  const each = async (
    messages: readonly FederationRelationship__Output[],
    words: string,
    mask: RelationshipMaskMessage,
    write: (message: FederationRelationship__Output) => Promise<Relationship>,
  ): Promise<{ results: ItemResult[] }> => {
    const results: ItemResult[] = [];
    for (const message of messages) {
      try {
        results.push({ status: okStatus, federation_relationship: shown(await write(message), mask) });
      } catch (error) {
        results.push({ status: refusal(error, words) });
      }
    }
    return { results };
  };

  const create = async (message: FederationRelationship__Output, caller: Caller): Promise<Relationship> => {
    const draft = relationshipFromMessage(message);
    if (draft.trustDomain === trustDomain) {
      throw new SpiffeError('invalid', 'relationship.own', 'unable to create federation relationship for server trust domain');
    }
    const bundle = draft.bundle === undefined ? undefined : untainted(draft.bundle);
    const { endpointUrl, profile } = draft;
    return store.createRelationship({ trustDomain: draft.trustDomain, endpointUrl, profile }, bundle, scopeOf(caller, clock.now()));
  };

  const update = async (message: FederationRelationship__Output, mask: RelationshipMaskMessage, caller: Caller): Promise<Relationship> => {
    const draft = relationshipFromMessage(message);
    const fields = {
      ...((mask?.bundle_endpoint_url ?? true) && { endpointUrl: draft.endpointUrl }),
      ...((mask?.bundle_endpoint_profile ?? true) && { profile: draft.profile }),
    };
    const bundle = (mask?.trust_domain_bundle ?? true) && draft.bundle !== undefined ? untainted(draft.bundle) : undefined;
    return store.updateRelationship(draft.trustDomain, fields, bundle, scopeOf(caller, clock.now()));
  };

  return {
    async ListFederationRelationships({ output_mask, page_size, page_token }) {
      const page = relationships.list(page_size, page_token);
      return {
        federation_relationships: page.items.map((relationship) => shown(relationship, output_mask)),
        next_page_token: page.nextToken,
      };
    },

    async GetFederationRelationship({ trust_domain, output_mask }) {
      const relationship = relationships.get(domainFromText(trust_domain));
      if (relationship === undefined) throw new SpiffeError('missing', 'relationship.missing', 'federation relationship does not exist');
      return shown(relationship, output_mask);
    },

    async BatchCreateFederationRelationship({ federation_relationships, output_mask }, caller) {
      return each(federation_relationships, 'failed to create federation relationship', output_mask, (message) => create(message, caller));
    },

    async BatchUpdateFederationRelationship({ federation_relationships, input_mask, output_mask }, caller) {
      const words = 'failed to update federation relationship';
      return each(federation_relationships, words, output_mask, (message) => update(message, input_mask, caller));
    },

    async BatchDeleteFederationRelationship({ trust_domains }, caller) {
      const results: { status: ItemStatus; trust_domain: string }[] = [];
      for (const text of trust_domains) {
        try {
          if (text === '') throw new SpiffeError('invalid', 'relationship.trust-domain', 'missing trust domain');
          await store.deleteRelationship(domainFromText(text), scopeOf(caller, clock.now()));
          results.push({ status: okStatus, trust_domain: text });
        } catch (error) {
          results.push({ status: deleteRefusal(error), trust_domain: text });
        }
      }
      return { results };
    },

    async RefreshBundle({ trust_domain }) {
      await refresher.refresh(domainFromText(trust_domain));
      return {};
    },
  };
}

const internalCode = 13;

/** [SPIRE contract 13.3]: what is there already and what is not are both internal to it. */
function refusal(error: unknown, words: string): ItemStatus {
  if (!(error instanceof SpiffeError) || error.kind === 'internal' || error.kind === 'unavailable') throw error;
  switch (error.reason) {
    case 'relationship.exists':
      return { code: internalCode, message: `${words}: ${error.message}` };
    case 'relationship.missing':
      return { code: internalCode, message: `${words}: unable to fetch federation relationship: ${error.message}` };
    case 'relationship.own':
      return statusOf(error, '');
    default:
      return statusOf(error, error.kind === 'invalid' ? 'failed to convert federation relationship' : words);
  }
}

function deleteRefusal(error: unknown): ItemStatus {
  if (!(error instanceof SpiffeError) || error.kind === 'internal' || error.kind === 'unavailable') throw error;
  return error.reason === 'relationship.missing' ? statusOf(error, 'federation relationship not found', 'bare') : statusOf(error, '');
}
