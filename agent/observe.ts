/**
 * What can be seen of a running agent: its metrics, its log lines and its conditions of readiness, each told by the part
 * that knows. Nothing here changes what the agent does.
 */
import type { SpiffeError } from '../spiffe/errors.ts';
import type { AcceptorEvent } from '../runtime/acceptor.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Health } from '../runtime/health.ts';
import type { Logger } from '../runtime/log.ts';
import { secondsBuckets, type Metrics } from '../runtime/metrics.ts';
import type { CallEnd } from '../runtime/rpc/calls.ts';
import type { IdentityEvent } from './node/identity.ts';
import type { RenewalOutcome } from './svids/renew.ts';
import type { TokenOutcome } from './svids/tokens.ts';
import type { WitOutcome } from './svids/wits.ts';
import type { FollowState } from './sync/follow.ts';

export interface ObserverParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly health: Health;
  /** Read when scraped. */
  readonly read: {
    readonly entries: () => number;
    readonly x509Svids: () => number;
    readonly jwtSvids: () => number;
    readonly witSvids: () => number;
    readonly streams: () => number;
    readonly connections: () => number;
    readonly queued: () => number;
    readonly spooled: () => number;
    /** Epoch milliseconds; `undefined` when nothing is held. */
    readonly earliestExpiryAt: () => number | undefined;
    /** The smallest share of its life that an SVID held for a workload has left. */
    readonly leastLifeLeft: () => number;
    readonly ownExpiryAt: () => number | undefined;
    /** Monotonic; `undefined` before the first synchronisation. */
    readonly heardAt: () => number | undefined;
    readonly revision: () => number | undefined;
  };
}

export interface Observer {
  identity(event: IdentityEvent): void;
  followed(state: FollowState): void;
  polled(): void;
  pollFailed(error: SpiffeError): void;
  /** The holdings are known well enough to answer by. */
  synced(): void;
  renewed(outcome: RenewalOutcome): void;
  signedToken(outcome: TokenOutcome): void;
  signedWit(outcome: WitOutcome): void;
  /** A stream was sent an update that follows from a commit at this instant of the server's clock. */
  updated(committedAt: number | undefined): void;
  attested(ms: number, outcome: 'complete' | 'incomplete' | 'failed'): void;
  called(end: CallEnd<unknown>): void;
  accepted(event: AcceptorEvent): void;
  /** A proxy could not use a secret; told in the log unless `quiet`. */
  secretRejected(pid: number, message: string, quiet: boolean): void;
  /** A proxy asks for secrets that are not its. */
  secretsUnknown(pid: number, names: readonly string[]): void;
  problem(event: string, error: SpiffeError): void;
  listening(path: string, tier: number): void;
  listeningForSecrets(path: string): void;
  /** Looks at the conditions that time alone changes; ends with the signal's reason. */
  watchConditions(signal: AbortSignal): Promise<never>;
}

const outcomes = ['signed', 'failed'] as const;
const callOutcomes = ['ok', 'denied', 'invalid', 'unavailable', 'other'] as const;
/** Beyond this the clocks of agent and server are far enough apart to matter to backdated certificates. */
const noticeableSkewMs = 5_000;
const intolerableSkewMs = 60_000;
const staleMs = 300_000;
/** Renewal begins at half; below this it has failed for a while. */
const leastLife = 0.2;
const lookEveryMs = 5_000;

export function createObserver(parts: ObserverParts): Observer {
  const { clock, log, metrics, health, read } = parts;
  const attested = health.condition('attested', 'the agent has no SVID yet');
  const synced = health.condition('synced', 'nothing was synchronised yet');
  const socket = health.condition('socket', 'the Workload API is not listening yet');

  const fresh = health.condition('sync-age', 'nothing was heard of the server yet');
  const unexpired = health.condition('expiry', 'not looked at yet');
  const clocks = health.condition('clock-skew', "the server's clock is not known yet");
  unexpired.meet();
  clocks.meet();
  fresh.meet();

  const signs = metrics.counter({ name: 'steeple_agent_signatures_total', help: 'SVIDs asked for', labels: { kind: ['x509', 'jwt', 'wit'], outcome: outcomes } });
  const renewals = metrics.counter({ name: 'steeple_agent_identity_total', help: "Changes of the agent's own SVID", labels: { change: ['attested', 'renewed', 'resumed', 'reverted', 'failed', 'given-up'] } });
  const attestations = metrics.histogram({ name: 'steeple_agent_attestation_seconds', help: 'Time to attest a workload', labels: { outcome: ['complete', 'incomplete', 'failed'] } }, secondsBuckets);
  const delivery = metrics.histogram({ name: 'steeple_agent_delivery_seconds', help: 'From commit at the server to delivery to a connected workload', labels: {} }, secondsBuckets);
  const calls = metrics.counter({ name: 'steeple_agent_calls_total', help: 'Calls on the local sockets', labels: { outcome: callOutcomes } });
  const refusals = metrics.counter({ name: 'steeple_agent_connections_refused_total', help: 'Connections refused before any byte was read', labels: {} });
  const rejections = metrics.counter({ name: 'steeple_agent_sds_rejections_total', help: 'Secrets that a proxy could not use', labels: {} });
  const breaks = metrics.counter({ name: 'steeple_agent_sync_failures_total', help: 'Breaks of synchronisation', labels: {} });
  const skew = metrics.gauge({ name: 'steeple_agent_clock_skew_seconds', help: "The server's clock less this one's", labels: {} });
  const gauge = (name: string, help: string, value: () => number | undefined): void =>
    metrics.observedGauge({ name, help }, () => value() ?? Number.NaN);
  gauge('steeple_agent_entries', 'Entries held', read.entries);
  gauge('steeple_agent_x509_svids', 'X509-SVIDs held', read.x509Svids);
  gauge('steeple_agent_jwt_svids', 'JWT-SVIDs held', read.jwtSvids);
  gauge('steeple_agent_wit_svids', 'WIT-SVIDs held', read.witSvids);
  gauge('steeple_agent_streams', 'Open streams of workloads', read.streams);
  gauge('steeple_agent_connections', 'Connections of workloads', read.connections);
  gauge('steeple_agent_signature_queue', 'X509-SVIDs waiting to be signed', read.queued);
  gauge('steeple_agent_spooled_events', 'Events the server has not recorded yet', read.spooled);
  gauge('steeple_agent_revision', 'Revision of what is held', read.revision);
  gauge('steeple_agent_sync_age_seconds', 'Since the last sign of life of the server', () => secondsSince(read.heardAt(), clock.monotonic()));
  gauge('steeple_agent_earliest_expiry_seconds', 'Until the first SVID held for a workload expires', () => secondsUntil(read.earliestExpiryAt(), clock.now()));
  gauge('steeple_agent_own_expiry_seconds', "Until the agent's own SVID expires", () => secondsUntil(read.ownExpiryAt(), clock.now()));

  return {
    identity(event) {
      renewals.inc({ change: event.what });
      if (event.what === 'failed') {
        log.warn('identity.failed', { reason: event.error.reason, error: event.error });
        return;
      }
      if (event.what === 'given-up') {
        attested.hold('the agent gave up its SVID');
        log.error('identity.given-up', { reason: event.reason, error: event.error });
        return;
      }
      attested.meet();
      const { svid } = event.identity;
      log.info(`identity.${event.what}`, { agent: svid.spiffeId, serial: svid.serial, expiresAt: new Date(svid.expiresAt).toISOString() });
    },
    followed(state) {
      switch (state.state) {
        case 'connected':
          skew.set({}, state.skewMs / 1000);
        if (Math.abs(state.skewMs) > intolerableSkewMs) clocks.hold(`the server's clock differs by ${String(Math.round(state.skewMs / 1000))} s`);
        else clocks.meet();
          log.info('sync.connected', { version: state.version, skewMs: Math.round(state.skewMs), kind: state.snapshot ? 'snapshot' : 'resumed' });
          if (Math.abs(state.skewMs) > noticeableSkewMs) log.warn('sync.skew', { skewMs: Math.round(state.skewMs) });
          break;
        case 'current':
          synced.meet();
          break;
        case 'broken':
          breaks.inc({});
          log.warn('sync.broken', { reason: state.error.reason, error: state.error });
          break;
      }
    },
    polled: () => synced.meet(),
    pollFailed(error) {
      breaks.inc({});
      log.warn('sync.poll-failed', { reason: error.reason, error });
    },
    synced: () => synced.meet(),
    renewed({ entry, svid, error }) {
      signs.inc({ kind: 'x509', outcome: svid === undefined ? 'failed' : 'signed' });
      if (error !== undefined) log.warn('svid.failed', { entry: entry.id, spiffeId: entry.spiffeId, reason: error.reason, error });
      else log.debug('svid.signed', { entry: entry.id, spiffeId: entry.spiffeId, serial: svid?.serial });
    },
    signedToken({ entry, svid, error }) {
      signs.inc({ kind: 'jwt', outcome: svid === undefined ? 'failed' : 'signed' });
      if (error !== undefined) log.warn('token.failed', { entry: entry.id, spiffeId: entry.spiffeId, reason: error.reason, error });
    },
    signedWit({ entry, svid, error }) {
      signs.inc({ kind: 'wit', outcome: svid === undefined ? 'failed' : 'signed' });
      if (error !== undefined) log.warn('wit.failed', { entry: entry.id, spiffeId: entry.spiffeId, reason: error.reason, error });
    },
    updated(committedAt) {
      if (committedAt !== undefined) delivery.observe({}, Math.max(0, clock.now() - committedAt) / 1000);
    },
    attested: (ms, outcome) => attestations.observe({ outcome }, ms / 1000),
    called(end) {
      calls.inc({ outcome: callOutcome(end.code) });
      const fields = { method: end.method, requestId: end.requestId, code: end.code, reason: end.reason, ms: Math.round(end.ms), incident: end.incident };
      if (end.incident === undefined) log.debug('call.ended', fields);
      else log.error('call.failed', { ...fields, error: end.error });
    },
    accepted(event) {
      switch (event.kind) {
        case 'refused':
          for (const { uid, cause, count } of event.counts) {
            refusals.inc({}, count);
            log.warn('socket.refused', { uid, cause, count });
          }
          break;
        case 'paused':
          log.error('socket.paused', { code: event.code });
          break;
        case 'resumed':
          log.info('socket.resumed');
          break;
      }
    },
    secretRejected(pid, message, quiet) {
      rejections.inc({});
      if (!quiet) log.warn('sds.rejected', { pid, problem: message });
    },
    secretsUnknown(pid, names) {
      // Names are of the caller's making: a few, and not whole.
      log.info('sds.unknown-names', { pid, count: names.length, name: names.slice(0, 8).map((name) => name.slice(0, 256)) });
    },
    problem: (event, error) => log.warn(event, { reason: error.reason, error }),
    listening(path, tier) {
      socket.meet();
      log.info('socket.listening', { socket: path, tier });
    },
    listeningForSecrets: (path) => log.info('sds.listening', { socket: path }),
    async watchConditions(signal) {
      const startedAt = clock.monotonic();
      for (;;) {
        const age = clock.monotonic() - (read.heardAt() ?? startedAt);
        if (age > staleMs) fresh.hold(`nothing was heard of the server for ${String(Math.round(age / 60_000))} min`);
        else fresh.meet();
        if (read.leastLifeLeft() < leastLife) unexpired.hold('an SVID is close to its end and could not be renewed');
        else unexpired.meet();
        await clock.sleep(lookEveryMs, signal);
      }
    },
  };
}

function secondsSince(at: number | undefined, now: number): number | undefined {
  return at === undefined ? undefined : (now - at) / 1000;
}

function secondsUntil(at: number | undefined, now: number): number | undefined {
  return at === undefined ? undefined : (at - now) / 1000;
}

function callOutcome(code: number): (typeof callOutcomes)[number] {
  switch (code) {
    case 0:
      return 'ok';
    case 3:
      return 'invalid';
    case 7:
      return 'denied';
    case 14:
      return 'unavailable';
    default:
      return 'other';
  }
}
