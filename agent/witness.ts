/**
 * What workloads caused, told to the record and to the metrics: one place where a call of the Workload API becomes events.
 * Sampling and keeping them is `events/`.
 */
import { canonicalSelectors, type Selector } from '../spiffe/selector.ts';
import type { BrokerWitness } from './broker/stream.ts';
import type { WorkloadEvent } from './events/event.ts';
import type { Reporter } from './events/report.ts';
import type { Observer } from './observe.ts';
import type { RenewalOutcome } from './svids/renew.ts';
import type { TokenOutcome } from './svids/tokens.ts';
import type { WitOutcome } from './svids/wits.ts';
import type { Attestation } from './workload/attest.ts';
import type { Beneficiary } from './workload/caller.ts';

export interface WorkloadWitness extends BrokerWitness {
  attested(caller: Beneficiary, attestation: Attestation): void;
  renewed(outcome: RenewalOutcome): void;
  signedToken(outcome: TokenOutcome): void;
  signedWit(outcome: WitOutcome): void;
}

/** In one event. */
const mostSelectors = 256;

/**
 * In order, without environments: they hold passwords, and what an entry asks of one is on record with the match. A
 * container with a thousand labels loses the last of them, and nothing else.
 */
function recordedOf(selectors: Iterable<Selector>): readonly Selector[] {
  const recorded = canonicalSelectors(selectors).filter((selector) => !selector.startsWith('docker:env:'));
  const types = Map.groupBy(recorded, (selector) => selector.slice(0, selector.indexOf(':')));
  const kept = [...types.values()].toSorted((a, b) => a.length - b.length).flat();
  return canonicalSelectors(kept.slice(0, mostSelectors));
}

export function createWitness(observer: Observer, reporter: Pick<Reporter, 'record'>): WorkloadWitness {
  return {
    attested(caller, attestation) {
      const ms = Math.max(0, ...attestation.reports.map((report) => report.ms));
      observer.attested(ms, attestation.incomplete ? 'incomplete' : 'complete');
      const failed = attestation.reports.flatMap(({ attestor, reason }) => (reason === undefined ? [] : [`${attestor}: ${reason}`]));
      reporter.record({
        kind: 'attested',
        ...about(caller),
        selectors: recordedOf(attestation.selectors),
        reason: failed.join(', '),
      });
    },
    matched(caller, { update }) {
      for (const entry of update.entries) {
        reporter.record({ kind: 'matched', ...about(caller), entryId: entry.id, spiffeId: entry.spiffeId, selectors: entry.selectors });
      }
    },
    delivered(caller, svid, before) {
      reporter.record({
        kind: before === undefined ? 'delivered' : 'rotated',
        ...about(caller),
        entryId: svid.entryId,
        spiffeId: svid.spiffeId,
        credential: svid.serial,
      });
    },
    deliveredToken(caller, svid) {
      reporter.record({ kind: 'delivered', ...about(caller), entryId: svid.entryId, spiffeId: svid.spiffeId, credential: jtiOf(svid.token), reason: 'jwt' });
    },
    updated: (committedAt) => observer.updated(committedAt),
    refused(caller, method, error) {
      reporter.record({ kind: 'refused', ...about(caller), reason: error.reason, method });
    },
    closed(caller, method) {
      reporter.record({ kind: 'closed', ...about(caller), method });
    },
    renewed(outcome) {
      observer.renewed(outcome);
      if (outcome.error === undefined) return;
      const { entry, process } = outcome;
      reporter.record({ kind: 'refused', process, entryId: entry.id, spiffeId: entry.spiffeId, reason: outcome.error.reason });
    },
    signedWit(outcome) {
      observer.signedWit(outcome);
      if (outcome.error === undefined) return;
      const { entry, process } = outcome;
      reporter.record({ kind: 'refused', process, entryId: entry.id, spiffeId: entry.spiffeId, reason: outcome.error.reason });
    },
    signedToken(outcome) {
      observer.signedToken(outcome);
      const { entry, process, svid, error } = outcome;
      reporter.record({
        kind: error === undefined ? 'delivered' : 'refused',
        process,
        entryId: entry.id,
        spiffeId: entry.spiffeId,
        credential: svid === undefined ? '' : jtiOf(svid.token),
        reason: error?.reason ?? 'jwt',
      });
    },
  };
}

function about({ process, behalf }: Beneficiary): Pick<WorkloadEvent, 'process' | 'broker' | 'reference'> {
  return { process, broker: behalf?.broker ?? '', reference: behalf?.reference ?? '' };
}

/** Of a token that was parsed when it came; `''` when it has none. */
function jtiOf(token: string): string {
  const [, payload = ''] = token.split('.');
  const claims: unknown = JSON.parse(Buffer.from(payload, 'base64url').toString('utf8'));
  return typeof claims === 'object' && claims !== null && 'jti' in claims && typeof claims.jti === 'string' ? claims.jti : '';
}
