/**
 * How federation relationships are shown: a table, a record, or JSON that can be read back. Fetching them is the commands'
 * business.
 */
import { bundleFromMessage } from '../proto/convert/bundle.ts';
import type { FederationRelationship__Output } from '../proto/gen/spire/api/types/FederationRelationship.ts';
import type { RelationshipState__Output } from '../proto/gen/steeple/operator/v1/RelationshipState.ts';
import { systemClock } from '../runtime/clock.ts';
import { formatBundleDocument } from '../spiffe/bundle-document.ts';
import type { Io } from './command.ts';
import { distance, json, type OutputForm, record, table } from './print.ts';

/** How fetching goes, by trust domain. */
export type States = ReadonlyMap<string, RelationshipState__Output>;

export function showRelationships(io: Io, form: OutputForm, found: readonly FederationRelationship__Output[], states: States, as: 'table' | 'record'): void {
  if (form === 'json') {
    const views = found.map((relationship) => relationshipView(relationship, states));
    io.out(json(as === 'record' ? views[0] : views));
    return;
  }
  const now = systemClock.now();
  if (as === 'record') {
    for (const relationship of found) io.out(record(rowsOf(relationship, states.get(relationship.trust_domain), now)));
    return;
  }
  io.out(
    table(
      ['TRUST DOMAIN', 'PROFILE', 'SEQUENCE', 'FETCHED', 'NEXT', 'FAILURES', 'LAST ERROR'],
      found.map((relationship) => {
        const state = states.get(relationship.trust_domain);
        return [
          relationship.trust_domain,
          profileOf(relationship),
          relationship.trust_domain_bundle?.sequence_number ?? 'pending',
          when(state?.refreshed_at_ms, now),
          when(state?.next_at_ms, now),
          String(state?.failures ?? 0),
          state?.reason === '' || state === undefined ? '-' : state.reason,
        ];
      }),
    ),
  );
}

function rowsOf(
  relationship: FederationRelationship__Output,
  state: RelationshipState__Output | undefined,
  now: number,
): readonly (readonly [string, string | readonly string[]])[] {
  const bundle = relationship.trust_domain_bundle;
  return [
    ['Trust domain', relationship.trust_domain],
    ['Bundle endpoint', relationship.bundle_endpoint_url],
    ['Profile', profileOf(relationship)],
    ...(relationship.https_spiffe ? [['Endpoint SPIFFE ID', relationship.https_spiffe.endpoint_spiffe_id] as const] : []),
    ['Bundle', bundle === null ? 'pending: still to come' : `sequence ${bundle.sequence_number}, ${bundle.x509_authorities.length} X.509 and ${bundle.jwt_authorities.length} JWT authorities`],
    ...(state === undefined
      ? []
      : ([
          ['Fetched', when(state.refreshed_at_ms, now)],
          ['Asked', when(state.attempted_at_ms, now)],
          ['Next', when(state.next_at_ms, now)],
          ['Failures', String(state.failures)],
          ['Last error', state.reason],
        ] as const)),
  ];
}

/** What `federation create --file` reads again. */
export function relationshipView(relationship: FederationRelationship__Output, states: States): Readonly<Record<string, unknown>> {
  const state = states.get(relationship.trust_domain);
  const bundle = relationship.trust_domain_bundle;
  return {
    trustDomain: relationship.trust_domain,
    bundleEndpointUrl: relationship.bundle_endpoint_url,
    bundleEndpointProfile: profileOf(relationship),
    ...(relationship.https_spiffe && { endpointSpiffeId: relationship.https_spiffe.endpoint_spiffe_id }),
    ...(bundle !== null && { trustDomainBundle: formatBundleDocument(bundleFromMessage(bundle)), trustDomainBundleFormat: 'spiffe' }),
    ...(state !== undefined && {
      state: {
        pending: state.pending,
        fetchedAt: instantOf(state.refreshed_at_ms),
        askedAt: instantOf(state.attempted_at_ms),
        nextAt: instantOf(state.next_at_ms),
        failures: state.failures,
        reason: state.reason,
      },
    }),
  };
}

function profileOf(relationship: FederationRelationship__Output): 'https_web' | 'https_spiffe' {
  return relationship.https_spiffe ? 'https_spiffe' : 'https_web';
}

function when(ms: string | undefined, now: number): string {
  return ms === undefined || ms === '0' ? 'never' : distance(Number(ms), now);
}

function instantOf(ms: string): string | null {
  return ms === '0' ? null : new Date(Number(ms)).toISOString();
}
