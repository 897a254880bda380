/**
 * What operators ask of the agent itself: how it is, and why a process gets what it gets. Only ever on the private socket.
 */
import type { AdminDefinition } from '../../proto/gen/steeple/agent/v1/Admin.ts';
import type { ExplainRequest__Output } from '../../proto/gen/steeple/agent/v1/ExplainRequest.ts';
import type { Explanation } from '../../proto/gen/steeple/agent/v1/Explanation.ts';
import type { EntryMatch } from '../../proto/gen/steeple/agent/v1/EntryMatch.ts';
import type { Status } from '../../proto/gen/steeple/agent/v1/Status.ts';
import { explainMatch, type MatchDistance } from '../../spiffe/authorize.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { canonicalSelectors } from '../../spiffe/selector.ts';
import { strengthOf } from '../../spiffe/strength.ts';
import { linkedController } from '../../runtime/abort.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { CallContext, ServiceHandlers } from '../../runtime/rpc/handlers.ts';
import type { Peer } from '../../runtime/peer.ts';
import type { Attest, Attestation } from '../workload/attest.ts';
import type { WantedSelectors } from '../workload/attestor.ts';
import { withProcess } from './look.ts';

/** What the agent says of itself. Instants are epoch milliseconds, 0 where there is none. */
export interface AgentStatus {
  readonly version: string;
  readonly agentId: string;
  readonly svidExpiresAt: number;
  readonly epoch: string;
  readonly revision: number;
  readonly followedAt: number;
  readonly entries: number;
  readonly x509Svids: number;
  readonly jwtSvids: number;
  readonly workloadStreams: number;
  readonly kernelTier: string;
  readonly unmetConditions: readonly string[];
  readonly spooledEvents: number;
}

export interface AdminApiOptions {
  readonly clock: Clock;
  readonly status: () => AgentStatus;
  readonly attest: Attest;
  /** Every held entry. */
  readonly entries: () => Iterable<RegistrationEntry>;
  readonly hasBundle: (trustDomain: TrustDomain) => boolean;
}

/** Who asks wants to see what entries could be written of, and not only what those there are ask for. */
const everything: WantedSelectors = { asks: () => true };
/** For facts that are still being established. */
const patienceMs = 5_000;
const closestShown = 5;
const matchesShown = 1_000;

export function adminApi(options: AdminApiOptions): ServiceHandlers<AdminDefinition, Peer> {
  return {
    GetStatus: async (): Promise<Status> => statusToMessage(options.status()),
    Explain: (request: ExplainRequest__Output, call: CallContext<Peer>): Promise<Explanation> =>
      withProcess(request.pid, options.clock.now(), (peer) => explain(options, peer, call.signal)),
  };
}

async function explain(options: AdminApiOptions, peer: Peer, signal: AbortSignal): Promise<Explanation> {
  const attestation = await attestAll(options, peer, signal);
  const distances = explainMatch(attestation.selectors, options.entries(), matchesShown);
  const matches = distances.filter(({ missing }) => missing.length === 0);
  return {
    attestors: attestation.reports.map((report) => ({
      name: report.attestor,
      ms: report.ms,
      selectors: [...(attestation.given.get(report.attestor) ?? [])],
      reason: report.reason ?? report.omitted.map(({ what, reason }) => `${what}: ${reason}`).join(', '),
    })),
    selectors: [...canonicalSelectors(attestation.selectors)],
    matches: matches.map((match) => matchToMessage(match, options)),
    closest: distances.filter(({ missing }) => missing.length > 0).slice(0, closestShown).map((match) => matchToMessage(match, options)),
  };
}

async function attestAll({ attest, clock }: AdminApiOptions, peer: Peer, signal: AbortSignal): Promise<Attestation> {
  const first = await attest(peer, everything, signal);
  if (first.pending === undefined) return first;
  const patience = linkedController(signal);
  await Promise.race([first.pending, clock.sleep(patienceMs, patience.signal).catch(() => undefined)]);
  patience.abort(new Error('waited enough'));
  patience.unlink();
  return attest(peer, everything, signal);
}

function matchToMessage({ entry, missing }: MatchDistance<RegistrationEntry>, { hasBundle }: AdminApiOptions): EntryMatch {
  const { level, why } = strengthOf(entry.selectors);
  return {
    entry_id: entry.id,
    spiffe_id: entry.spiffeId,
    missing_selectors: [...missing],
    strength: level,
    strength_reason: why,
    pending_bundles: entry.federatesWith.filter((name) => !hasBundle(name)),
  };
}

function statusToMessage(status: AgentStatus): Status {
  return {
    version: status.version,
    agent_id: status.agentId,
    svid_expires_at_ms: status.svidExpiresAt,
    epoch: status.epoch,
    revision: status.revision,
    followed_at_ms: Math.round(status.followedAt),
    entries: status.entries,
    x509_svids: status.x509Svids,
    jwt_svids: status.jwtSvids,
    workload_streams: status.workloadStreams,
    kernel_tier: status.kernelTier,
    unmet_conditions: [...status.unmetConditions],
    spooled_events: status.spooledEvents,
  };
}
