/**
 * SPIRE's bundle service: the own bundle for whoever asks, federated bundles for agents and operators. Fetching bundles
 * of others by themselves is federation's; the life of our own authorities is `authority/`.
 */
import {
  bundleFromMessage,
  type BundleMaskMessage,
  bundlePartsFromMessage,
  bundleToMessage,
  jwtAuthorityFromMessage,
  jwtAuthorityToMessage,
  x509AuthorityFromMessage,
} from '../../proto/convert/bundle.ts';
import { namedValue } from '../../proto/convert/scalar.ts';
import type { Bundle as BundleMessage, Bundle__Output } from '../../proto/gen/spire/api/types/Bundle.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { type TrustDomain, trustDomainFromText } from '../../spiffe/id.ts';
import type { BundleWrite, Store } from '../store/store.ts';
import { type Caller, scopeOf } from './caller.ts';
import type { Handlers } from './handlers.ts';
import { type ItemStatus, okStatus, statusOf } from './item-status.ts';

export interface BundleQueries {
  get(trustDomain: TrustDomain): Bundle | undefined;
  /** The own bundle among them, in a stable order. */
  all(): readonly Bundle[];
}

export interface BundlesDeps {
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  readonly bundles: BundleQueries;
  readonly store: Pick<Store, 'appendBundle' | 'writeBundle' | 'deleteBundle'>;
}

const deleteModes = { RESTRICT: 'restrict', DELETE: 'delete', DISSOCIATE: 'dissociate' } as const;

interface ItemResult {
  status: ItemStatus;
  bundle?: BundleMessage;
}

export function createBundlesApi(deps: BundlesDeps): Handlers<'spire.api.server.bundle.v1.Bundle'> {
  const { trustDomain, clock, bundles, store } = deps;

  const own = (): Bundle => {
    const bundle = bundles.get(trustDomain);
    if (bundle === undefined) throw new SpiffeError('missing', 'bundle.missing', 'bundle not found');
    return bundle;
  };

  const writeAll = async (
    messages: readonly Bundle__Output[],
    how: BundleWrite,
    read: (message: Bundle__Output, foreign: TrustDomain) => Bundle,
    mask: BundleMaskMessage,
    caller: Caller,
  ): Promise<{ results: ItemResult[] }> => {
    const verb = { create: 'creating', update: 'updating', set: 'setting' }[how];
    const results: ItemResult[] = [];
    // One after the other: two items may speak of the same trust domain.
    for (const message of messages) {
      try {
        const foreign = foreignDomain(message.trust_domain, trustDomain, `${verb} a federated bundle`);
        const written = await store.writeBundle(untainted(read(message, foreign)), how, scopeOf(caller, clock.now()));
        results.push({ status: okStatus, bundle: bundleToMessage(written, mask) });
      } catch (error) {
        if (!(error instanceof SpiffeError) || error.kind === 'internal' || error.kind === 'unavailable') throw error;
        results.push({ status: statusOf(error, error.reason.startsWith('proto.') ? 'failed to convert bundle' : '') });
      }
    }
    return { results };
  };

  return {
    async CountBundles() {
      return { count: bundles.all().length };
    },

    async GetBundle({ output_mask }) {
      return bundleToMessage(own(), output_mask);
    },

    async AppendBundle(request, caller) {
      if (request.x509_authorities.length === 0 && request.jwt_authorities.length === 0) {
        throw new SpiffeError('invalid', 'bundle.append.empty', 'no authorities to append');
      }
      const x509 = request.x509_authorities.map((message) => ({ ...x509AuthorityFromMessage(message), tainted: false }));
      const jwt = request.jwt_authorities.map((message) => ({ ...jwtAuthorityFromMessage(message), tainted: false }));
      const bundle = await store.appendBundle(trustDomain, x509, jwt, scopeOf(caller, clock.now()));
      return bundleToMessage(bundle, request.output_mask);
    },

    async PublishJWTAuthority({ jwt_authority }, caller) {
      if (jwt_authority === null) throw new SpiffeError('invalid', 'bundle.publish.missing', 'missing JWT authority');
      const authority = { ...jwtAuthorityFromMessage(jwt_authority), tainted: false };
      const bundle = await store.appendBundle(trustDomain, [], [authority], scopeOf(caller, clock.now()));
      return { jwt_authorities: bundle.jwtAuthorities.map(jwtAuthorityToMessage) };
    },

    async PublishWITAuthority() {
      throw new SpiffeError('unsupported', 'wit.unsupported', 'WIT-SVID functionality is not yet implemented');
    },

    async ListFederatedBundles({ output_mask, page_size, page_token }) {
      const foreign = bundles.all().filter((bundle) => bundle.trustDomain !== trustDomain);
      const start = page_token === '' ? 0 : foreign.findIndex((bundle) => bundle.trustDomain > page_token);
      if (page_size <= 0) return { bundles: foreign.map((bundle) => bundleToMessage(bundle, output_mask)) };
      const page = start < 0 ? [] : foreign.slice(start, start + page_size);
      return {
        bundles: page.map((bundle) => bundleToMessage(bundle, output_mask)),
        next_page_token: page.at(-1)?.trustDomain ?? '',
      };
    },

    async GetFederatedBundle(request) {
      const foreign = foreignDomain(request.trust_domain, trustDomain, 'getting a federated bundle');
      const bundle = bundles.get(foreign);
      if (bundle === undefined) throw new SpiffeError('missing', 'bundle.missing', 'bundle not found');
      return bundleToMessage(bundle, request.output_mask);
    },

    async BatchCreateFederatedBundle(request, caller) {
      return writeAll(request.bundle, 'create', bundleFromMessage, request.output_mask, caller);
    },

    async BatchUpdateFederatedBundle(request, caller) {
      const read = (message: Bundle__Output, foreign: TrustDomain): Bundle => {
        const current = bundles.get(foreign);
        if (current === undefined) throw new SpiffeError('missing', 'bundle.missing', 'bundle not found');
        return { ...current, ...bundlePartsFromMessage(message, request.input_mask) };
      };
      return writeAll(request.bundle, 'update', read, request.output_mask, caller);
    },

    async BatchSetFederatedBundle(request, caller) {
      return writeAll(request.bundle, 'set', bundleFromMessage, request.output_mask, caller);
    },

    async BatchDeleteFederatedBundle(request, caller) {
      const mode = namedValue(deleteModes, request.mode, 'mode');
      const results: { status: ItemStatus; trust_domain: string }[] = [];
      for (const text of request.trust_domains) {
        try {
          const foreign = foreignDomain(text, trustDomain, 'removing the bundle', 'for the server trust domain is not allowed');
          await store.deleteBundle(foreign, mode, scopeOf(caller, clock.now()));
          results.push({ status: okStatus, trust_domain: text });
        } catch (error) {
          if (!(error instanceof SpiffeError) || error.kind === 'internal' || error.kind === 'unavailable') throw error;
          const prefix = error.kind === 'conflict' ? 'failed to delete federated bundle' : '';
          results.push({ status: statusOf(error, prefix), trust_domain: text });
        }
      }
      return { results };
    },
  };
}

/** @throws invalid `bundle.trust-domain|own` */
function foreignDomain(
  text: string,
  own: TrustDomain,
  act: string,
  refusal = "for the server's own trust domain is not allowed",
): TrustDomain {
  let foreign: TrustDomain;
  try {
    foreign = trustDomainFromText(text);
  } catch (error) {
    const why = error instanceof SpiffeError ? error.message : 'unreadable';
    throw new SpiffeError('invalid', 'bundle.trust-domain', `trust domain argument is not valid: ${why}`, { cause: error });
  }
  if (foreign === own) throw new SpiffeError('invalid', 'bundle.own', `${act} ${refusal}`);
  return foreign;
}

/** Taint is our own mark; a client cannot set it. */
export function untainted(bundle: Bundle): Bundle {
  return {
    ...bundle,
    x509Authorities: bundle.x509Authorities.map((authority) => ({ ...authority, tainted: false })),
    jwtAuthorities: bundle.jwtAuthorities.map((authority) => ({ ...authority, tainted: false })),
    witAuthorities: bundle.witAuthorities.map((authority) => ({ ...authority, tainted: false })),
  };
}
