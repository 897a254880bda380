/**
 * What can be seen of federation: a log line for every fetch, so that it can be told later why something was trusted, and
 * metrics over all relationships. Nothing here changes what is trusted.
 */
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import { type Bundle, bundleEquals } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { Refresher, RefreshObserver } from './refresh.ts';
import type { Relationships } from './relationships.ts';

export interface FederationView {
  readonly relationships: Pick<Relationships, 'all'>;
  readonly state: Refresher['state'];
  readonly bundles: { get(trustDomain: TrustDomain): Bundle | undefined };
}

export interface FederationCounts {
  readonly relationships: number;
  /** Whose last fetch failed. */
  readonly failing: number;
  /** Whose bundle is still to come. */
  readonly pending: number;
}

export function countFederation({ relationships, state, bundles }: FederationView): FederationCounts {
  const all = relationships.all();
  return {
    relationships: all.length,
    failing: all.filter(({ trustDomain }) => (state(trustDomain)?.failures ?? 0) > 0).length,
    pending: all.filter(({ trustDomain }) => bundles.get(trustDomain) === undefined).length,
  };
}

/** The view is read when scraped. */
export function observeFederation(clock: Clock, log: Logger, metrics: Metrics, view: FederationView): RefreshObserver {
  const outcomes = ['changed', 'unchanged', 'failed', 'refused'] as const;
  const refreshes = metrics.counter({ name: 'steeple_server_bundle_refreshes_total', help: 'Bundles fetched from other trust domains', labels: { outcome: outcomes } });
  const gauge = (name: string, help: string, read: () => number): void => metrics.observedGauge({ name, help }, read);
  gauge('steeple_server_relationships', 'Relationships with other trust domains', () => countFederation(view).relationships);
  gauge('steeple_server_relationships_failing', 'Relationships whose last fetch failed', () => countFederation(view).failing);
  gauge('steeple_server_relationships_pending', 'Relationships whose bundle is still to come', () => countFederation(view).pending);
  gauge('steeple_server_bundle_age_seconds', 'Since the bundle of a relationship came that was not fetched for longest', () => oldestMs(view, clock.now()) / 1000);

  return {
    refreshed({ trustDomain }, bundle, before, ms) {
      const changed = before === undefined || !bundleEquals(before, bundle);
      refreshes.inc({ outcome: changed ? 'changed' : 'unchanged' });
      const fields = { trustDomain, bundle: bundle.sequence.toString(), outcome: changed ? 'changed' : 'unchanged', ms: Math.round(ms) };
      const isEmpty = [bundle.x509Authorities, bundle.jwtAuthorities, bundle.witAuthorities].every((kind) => kind.length === 0);
      // Its publisher revoked everything, which is rare and stops everything.
      if (changed && isEmpty) log.warn('federation.revoked', fields);
      else log.info('federation.fetched', fields);
    },
    failed({ trustDomain, endpointUrl }, error, failures, ms) {
      refreshes.inc({ outcome: error.kind === 'conflict' ? 'refused' : 'failed' });
      log.warn('federation.failed', { trustDomain, path: endpointUrl, reason: error.reason, attempt: failures, ms: Math.round(ms), error });
    },
  };
}

/** Of what never came, since the relationship began. */
function oldestMs({ relationships, state }: FederationView, now: number): number {
  let oldest = 0;
  for (const { trustDomain, createdAt } of relationships.all()) {
    oldest = Math.max(oldest, now - (state(trustDomain)?.refreshedAt ?? createdAt));
  }
  return oldest;
}
