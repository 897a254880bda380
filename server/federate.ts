/**
 * Federation put together, a part of the composition root: the relationships, what fetches their bundles, and what can be
 * seen of it. Their rules are in `federation/`.
 */
import { randomInt } from 'node:crypto';
import type { Clock } from '../runtime/clock.ts';
import { readTrustedFile } from '../runtime/files.ts';
import { fetchBundle } from '../runtime/http-bundle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { type TrustDomain, trustDomainOf } from '../spiffe/id.ts';
import { addressFilter } from './federation/addresses.ts';
import type { FetchConfig } from './federation/config.ts';
import { countFederation, type FederationCounts, observeFederation } from './federation/observe.ts';
import { createRefresher, type Refresher } from './federation/refresh.ts';
import { openRelationships, type Relationships } from './federation/relationships.ts';
import type { Relationship, Store } from './store/store.ts';

export interface FederationParts {
  readonly config: FetchConfig;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly store: Pick<Store, 'subscribe' | 'loadRelationships' | 'refreshBundle' | 'recordAudit'>;
  readonly bundles: { get(trustDomain: TrustDomain): Bundle | undefined };
}

export interface Federation {
  readonly relationships: Relationships;
  readonly refresher: Refresher;
  counts(): FederationCounts;
}

/** @throws what loading the relationships throws */
export async function openFederation({ config, clock, log, metrics, store, bundles }: FederationParts): Promise<Federation> {
  const relationships = await openRelationships(store);
  const view = { relationships, bundles, state: (trustDomain: TrustDomain) => refresher.state(trustDomain) };
  const refresher = createRefresher({
    clock,
    random: () => randomInt(2 ** 32) / 2 ** 32,
    relationships,
    bundles,
    store,
    fetch: createFetch(config, clock, bundles),
    bounds: { shortestMs: config.shortest, longestMs: config.longest },
    atOnce: config.at_once,
    observe: observeFederation(clock, log, metrics, view),
  });
  return { relationships, refresher, counts: () => countFederation(view) };
}

function createFetch(config: FetchConfig, clock: Clock, bundles: FederationParts['bundles']) {
  const mayConnect = addressFilter({ private: config.private_addresses, allow: config.allow_addresses });
  return async ({ trustDomain, endpointUrl: url, profile }: Relationship, signal: AbortSignal): Promise<Bundle> => {
    const asked = { url, trustDomain, clock, signal, mayConnect };
    if (profile.type === 'https_web') {
      // Read each time, so that it may be replaced while the server runs.
      const ca = config.web_ca === undefined ? {} : { ca: String(await readTrustedFile(config.web_ca)) };
      return fetchBundle({ ...asked, profile: { type: 'https_web', ...ca } });
    }
    const { endpointId } = profile;
    // The latest one of the endpoint's own trust domain, which may be another than the one that is fetched [Federation 5.2.2.4].
    const bundle = (): Bundle | undefined => bundles.get(trustDomainOf(endpointId));
    return fetchBundle({ ...asked, profile: { type: 'https_spiffe', endpointId, bundle } });
  };
}
