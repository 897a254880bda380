/**
 * What can be seen of a running server: its metrics, its log lines and its conditions of readiness, each told by the part
 * that knows. Nothing here changes what the server does.
 */
import type { Clock } from '../runtime/clock.ts';
import type { Condition, Health } from '../runtime/health.ts';
import type { Logger } from '../runtime/log.ts';
import { type Metrics, secondsBuckets } from '../runtime/metrics.ts';
import type { CallEnd } from '../runtime/rpc/calls.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { type Connection, callerName } from './api/caller.ts';
import type { Issuer } from './authority/issue.ts';
import type { Outcome } from './authority/sign.ts';
import type { AuthorityKind } from './store/store.ts';

export interface ObserverParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly health: Health;
  /** Read when scraped. */
  readonly read: {
    readonly entries: () => number;
    readonly agents: () => number;
    readonly following: () => number;
    readonly revision: () => number;
    /** Epoch milliseconds. */
    readonly ownExpiryAt: () => number;
    readonly authorityExpiryAt: () => number;
  };
}

export interface Observer {
  called(end: CallEnd<Connection>): void;
  refused(error: SpiffeError, address: string): void;
  /** From commit to the moment the change was taken for sending. */
  delivered(delayMs: number): void;
  issued(kind: AuthorityKind, outcome: 'issued' | 'refused', count: number): void;
  /** Of a part that works in the background; `undefined` when its last problem is over. */
  problem(part: BackgroundPart, problem: unknown): void;
  /** Met when the doors are open. */
  readonly listening: Condition;
}

export const backgroundParts = ['authorities', 'own-svid', 'pruning'] as const;
export type BackgroundPart = (typeof backgroundParts)[number];

const callOutcomes = ['ok', 'denied', 'invalid', 'limited', 'unavailable', 'internal', 'other'] as const;
type CallOutcome = (typeof callOutcomes)[number];
const outcomeOfCode: Readonly<Record<number, CallOutcome>> = {
  0: 'ok',
  3: 'invalid',
  5: 'invalid',
  6: 'invalid',
  7: 'denied',
  8: 'limited',
  9: 'invalid',
  13: 'internal',
  14: 'unavailable',
  16: 'denied',
};

export function createObserver({ clock, log, metrics, health, read }: ObserverParts): Observer {
  const calls = metrics.counter({ name: 'steeple_server_calls_total', help: 'Calls on both doors', labels: { door: ['tcp', 'operators'], outcome: callOutcomes } });
  const seconds = metrics.histogram({ name: 'steeple_server_call_seconds', help: 'Time to answer a call that is not a stream', labels: { door: ['tcp', 'operators'] } }, secondsBuckets);
  const handshakes = metrics.counter({ name: 'steeple_server_connections_refused_total', help: 'Connections that proved nothing or the wrong thing', labels: {} });
  const deliveries = metrics.histogram({ name: 'steeple_server_delivery_seconds', help: 'From commit to sending a change to a following agent', labels: {} }, secondsBuckets);
  const issued = metrics.counter({ name: 'steeple_server_credentials_total', help: 'Credentials asked for', labels: { kind: ['x509', 'jwt', 'wit'], outcome: ['issued', 'refused'] } });
  const problems = metrics.counter({ name: 'steeple_server_problems_total', help: 'Failures of work in the background', labels: { part: backgroundParts } });
  metrics.observedGauge({ name: 'steeple_server_entries', help: 'Registration entries' }, read.entries);
  metrics.observedGauge({ name: 'steeple_server_agents', help: 'Agents on record' }, read.agents);
  metrics.observedGauge({ name: 'steeple_server_following_agents', help: 'Agents with a follow stream' }, read.following);
  metrics.observedGauge({ name: 'steeple_server_revision', help: 'Newest committed revision' }, read.revision);
  metrics.observedGauge({ name: 'steeple_server_own_expiry_seconds', help: "Until the server's own SVID expires" }, () => (read.ownExpiryAt() - clock.now()) / 1000);
  metrics.observedGauge({ name: 'steeple_server_authority_expiry_seconds', help: 'Until the first active authority expires' }, () => (read.authorityExpiryAt() - clock.now()) / 1000);
  const background = Object.fromEntries(
    backgroundParts.map((part) => [part, health.condition(part, 'not started yet')]),
  ) as Readonly<Record<BackgroundPart, Condition>>;
  for (const part of backgroundParts) background[part].meet();

  return {
    listening: health.condition('listening', 'the doors are not open yet'),
    called(end) {
      const { door } = end.connection;
      calls.inc({ door, outcome: outcomeOfCode[end.code] ?? 'other' });
      if (!isStream(end.method)) seconds.observe({ door }, end.ms / 1000);
      const fields = { method: end.method, caller: callerName(end.connection), requestId: end.requestId, code: end.code, reason: end.reason, ms: Math.round(end.ms), incident: end.incident };
      if (end.incident !== undefined) log.error('call.failed', { ...fields, error: end.error });
      else if (end.code === 0) log.debug('call', fields);
      else log.info('call.refused', fields);
    },
    refused(error, address) {
      handshakes.inc({});
      log.info('connection.refused', { address, reason: error.reason });
    },
    delivered: (delayMs) => deliveries.observe({}, delayMs / 1000),
    issued: (kind, outcome, count) => issued.inc({ kind, outcome }, count),
    problem(part, problem) {
      if (problem === undefined) {
        background[part].meet();
        log.info('background.recovered', { task: part });
        return;
      }
      problems.inc({ part });
      const reason = problem instanceof SpiffeError ? problem.reason : 'internal';
      background[part].hold(reason);
      log.error('background.failed', { task: part, reason, error: problem });
    },
  };
}

/** The same issuer, whose outcomes for agents are counted. */
export function countIssued(issuer: Issuer, tell: Observer['issued']): Issuer {
  const counted = async <T>(kind: AuthorityKind, issuing: Promise<readonly Outcome<T>[]>): Promise<readonly Outcome<T>[]> => {
    const outcomes = await issuing;
    const refused = outcomes.filter(({ status }) => status === 'refused').length;
    if (outcomes.length > refused) tell(kind, 'issued', outcomes.length - refused);
    if (refused > 0) tell(kind, 'refused', refused);
    return outcomes;
  };
  return {
    ...issuer,
    issueX509: (requests, caller) => counted('x509', issuer.issueX509(requests, caller)),
    issueJwt: (requests, caller) => counted('jwt', issuer.issueJwt(requests, caller)),
    issueWit: (requests, caller) => counted('wit', issuer.issueWit(requests, caller)),
  };
}

function isStream(method: string): boolean {
  return /\/(?:Follow|TailAudit|Watch|SyncAuthorizedEntries|AttestAgent)$/.test(method);
}
