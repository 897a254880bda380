/**
 * The agent's own SVID: taken up from disk or attested for, renewed at half life, kept to its last second, given up when
 * the server says so. What it is used for is not known here.
 */
import { bundleEquals, type Bundle } from '../../spiffe/bundle.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { renewAt } from '../../spiffe/rotation.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { abortReason } from '../../runtime/abort.ts';
import { backoffMs, type BackoffPolicy } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { permissionDeniedReason } from '../../runtime/rpc/status.ts';
import type { TlsIdentity } from '../../runtime/tls.ts';
import { createWatch, type Watch } from '../../runtime/watch.ts';
import { createAlarm } from '../alarm.ts';
import type { AnonymousTrust, NodeAdmission } from './attest.ts';
import type { NodeStateFiles } from './state.ts';

export interface AgentIdentity {
  readonly svid: X509Svid;
  readonly reattestable: boolean;
  /** Half life with a jitter drawn once. */
  readonly renewAt: number;
}

/** Why an agent must end: it was banned, or it must join anew and cannot do so by itself. */
export type GiveUpReason = 'banned' | 'must-rejoin';

export interface IdentityOptions {
  readonly clock: Clock;
  readonly random: () => number;
  readonly trustDomain: TrustDomain;
  readonly files: NodeStateFiles;
  /** Whether the evidence can be shown more than once. */
  readonly repeatable: boolean;
  /** What to trust when no bundle was ever learned. */
  readonly firstTrust: (signal: AbortSignal) => Promise<AnonymousTrust>;
  readonly attest: (trust: AnonymousTrust, signal: AbortSignal) => Promise<NodeAdmission>;
  /** Over the mutual connection that presents the current SVID. */
  readonly renew: (signal: AbortSignal) => Promise<X509Svid>;
  readonly onEvent: (event: IdentityEvent) => void;
}

export type IdentityEvent =
  | { readonly what: 'attested' | 'renewed' | 'resumed' | 'reverted'; readonly identity: AgentIdentity }
  | { readonly what: 'failed'; readonly error: SpiffeError }
  | { readonly what: 'given-up'; readonly reason: GiveUpReason; readonly error: SpiffeError };

export interface IdentityOwner {
  /** `undefined` until the agent has an SVID. */
  readonly identity: Watch<AgentIdentity | undefined>;
  /** What the agent trusts the server by; follows the bundle that synchronisation brings. */
  readonly bundle: Watch<Bundle | undefined>;
  /** Both, as connections to the server present and believe them. */
  readonly tls: Watch<TlsIdentity>;
  /** @throws unavailable `files.*` when it cannot be kept */
  learnBundle(bundle: Bundle): Promise<void>;
  /** The server answered a call that presented this SVID: if it is the current one, the one before can go. */
  confirmUse(svid: X509Svid | undefined): void;
  /** A call was refused: decides whether the SVID is to be renewed, replaced or given up. */
  refused(error: SpiffeError): void;
  /** Renew or re-attest now. */
  renewNow(): void;
  banned(error: SpiffeError): void;
  evicted(error: SpiffeError): void;
  /** Resolves with the first identity. Throws `GiveUp`, or what is wrong with the state on disk. */
  start(signal: AbortSignal): Promise<AgentIdentity>;
  /** Keeps the identity; ends with the signal's reason or throws denied `identity.banned|must-rejoin`. */
  run(signal: AbortSignal): Promise<never>;
}

const retry: BackoffPolicy = { firstMs: 5_000, factor: 1.5, longestMs: 60_000, jitter: 0.2 };
const firstRetry: BackoffPolicy = { firstMs: 1_000, factor: 1.5, longestMs: 30_000, jitter: 0.2 };

type Order = 'renew' | 'reattest' | { readonly giveUp: GiveUpReason; readonly error: SpiffeError };

export function createIdentity(options: IdentityOptions): IdentityOwner {
  const { clock, random, files, onEvent } = options;
  const identity = createWatch<AgentIdentity | undefined>(undefined);
  const bundle = createWatch<Bundle | undefined>(undefined);
  const tls = createWatch<TlsIdentity>({ svid: undefined, bundles: new Map() });
  const alarm = createAlarm(clock);
  let previous: X509Svid | undefined;
  let order: Order | undefined;
  let used = true;

  const set = (newest: AgentIdentity | undefined, trusted: Bundle | undefined): void => {
    tls.set({ svid: newest?.svid, bundles: new Map(trusted === undefined ? [] : [[options.trustDomain, trusted]]) });
    bundle.set(trusted);
    identity.set(newest);
  };

  /** Of an SVID that has just come; what was backdated is no life. */
  const receive = (svid: X509Svid, reattestable: boolean): AgentIdentity => {
    const from = Math.min(Math.max(svid.notBeforeAt, clock.now()), svid.expiresAt);
    return Object.freeze({ svid, reattestable, renewAt: renewAt(from, svid.expiresAt, random()) });
  };

  /** On disk before its first use: the server drops the old one then. */
  const take = async (taken: AgentIdentity, before: X509Svid | undefined): Promise<AgentIdentity> => {
    await files.writeState({ ...taken, previous: before });
    previous = before;
    used = before === undefined;
    set(taken, bundle.value);
    return taken;
  };

  const learnBundle = async (learned: Bundle): Promise<void> => {
    if (bundle.value === learned || learned.x509Authorities.length === 0) return;
    const known = bundle.value;
    set(identity.value, learned);
    if (known === undefined || !bundleEquals(known, learned)) await files.writeBundle(learned);
  };

  const attest = async (signal: AbortSignal): Promise<AgentIdentity> => {
    const trust = bundle.value ?? (await options.firstTrust(signal));
    const admission = await options.attest(trust, signal);
    const taken = await take(receive(admission.svid, admission.reattestable), undefined);
    await learnBundle(admission.bundle);
    onEvent({ what: 'attested', identity: taken });
    return taken;
  };

  const renew = async (current: AgentIdentity, signal: AbortSignal): Promise<void> => {
    const svid = await options.renew(signal);
    onEvent({ what: 'renewed', identity: await take(receive(svid, current.reattestable), current.svid) });
  };

  /** The server does not know the newer SVID, restored from a backup perhaps: the one before may still do. */
  const revert = async (current: AgentIdentity): Promise<boolean> => {
    if (used || previous === undefined || clock.now() >= previous.expiresAt) return false;
    const older = Object.freeze({ svid: previous, reattestable: current.reattestable, renewAt: clock.now() });
    onEvent({ what: 'reverted', identity: await take(older, undefined) });
    return true;
  };

  const giveUp = async (reason: GiveUpReason, error: SpiffeError): Promise<never> => {
    await files.forgetState();
    set(undefined, bundle.value);
    onEvent({ what: 'given-up', reason, error });
    throw gaveUp(reason, error);
  };

  const obey = async (given: Order, current: AgentIdentity | undefined, signal: AbortSignal): Promise<void> => {
    if (typeof given === 'object') return giveUp(given.giveUp, given.error);
    const expired = current === undefined || clock.now() >= current.svid.expiresAt;
    if (given === 'reattest' || expired || current.reattestable) await attest(signal);
    else await renew(current, signal);
  };

  /** Shorter and shorter towards the end, when every try may be the last that the SVID allows. */
  const patience = (failures: number): number => {
    const left = (identity.value?.svid.expiresAt ?? 0) - clock.now();
    const delay = backoffMs(failures, random(), retry);
    return left > 0 ? Math.min(delay, Math.max(1_000, left / 4)) : delay;
  };

  const orderFor = (error: SpiffeError): Order | undefined => {
    switch (permissionDeniedReason(error)) {
      case 'AGENT_BANNED':
        return { giveUp: 'banned', error };
      case 'AGENT_EXPIRED':
      case 'AGENT_NOT_ATTESTED':
      case 'AGENT_NOT_ACTIVE':
      case 'AGENT_MUST_REATTEST':
        return mayReattest() ? 'reattest' : { giveUp: 'must-rejoin', error };
      default:
        return undefined;
    }
  };

  const mayReattest = (): boolean => options.repeatable && (identity.value?.reattestable ?? true);

  const command = (next: Order): void => {
    // Nothing takes back a ban.
    if (typeof order === 'object') return;
    order = next;
    alarm.ring();
  };

  const revertOr = async (current: AgentIdentity, otherwise: Order): Promise<void> => {
    try {
      if (!(await revert(current))) command(otherwise);
    } catch (error) {
      onEvent({ what: 'failed', error: asSpiffeError(error) });
    }
  };

  return {
    identity,
    bundle,
    tls,
    learnBundle,
    confirmUse(svid) {
      if (used || identity.value === undefined || svid !== identity.value.svid) return;
      used = true;
      previous = undefined;
      files.writeState({ ...identity.value, previous }).catch((error: unknown) => onEvent({ what: 'failed', error: asSpiffeError(error) }));
    },
    refused(error) {
      const next = orderFor(error);
      if (next === undefined) return;
      const current = identity.value;
      if (current !== undefined && permissionDeniedReason(error) === 'AGENT_NOT_ACTIVE' && !used) {
        void revertOr(current, next);
        return;
      }
      command(next);
    },
    renewNow: () => command('renew'),
    banned: (error) => command({ giveUp: 'banned', error }),
    evicted: (error) => command(mayReattest() ? 'reattest' : { giveUp: 'must-rejoin', error }),

    async start(signal) {
      const stored = await files.readState();
      const known = await files.readBundle();
      if (known !== undefined) set(undefined, known);
      if (stored !== undefined && known !== undefined && clock.now() < stored.svid.expiresAt) {
        previous = stored.previous;
        used = previous === undefined;
        const { svid, reattestable } = stored;
        const taken = Object.freeze({ svid, reattestable, renewAt: stored.renewAt });
        set(taken, known);
        onEvent({ what: 'resumed', identity: taken });
        return taken;
      }
      for (let failures = 1; ; failures += 1) {
        try {
          return await attest(signal);
        } catch (caught) {
          if (signal.aborted) throw abortReason(signal);
          const error = asSpiffeError(caught);
          // What is wrong on this side is for its operator to put right.
          if (isOwnFault(error)) throw error;
          // What is refused does not become right by asking again.
          if (error.kind !== 'unavailable' && error.kind !== 'limited' && error.kind !== 'internal') {
            const reason = permissionDeniedReason(error) === 'AGENT_BANNED' || error.reason === 'agent.banned' ? 'banned' : 'must-rejoin';
            onEvent({ what: 'given-up', reason, error });
            throw gaveUp(reason, error);
          }
          onEvent({ what: 'failed', error });
          await clock.sleep(backoffMs(failures, random(), firstRetry), signal);
        }
      }
    },

    async run(signal) {
      let failures = 0;
      for (;;) {
        const current = identity.value;
        if (order === undefined && failures === 0) await alarm.until(current?.renewAt ?? clock.now(), signal);
        const due = identity.value === undefined || clock.now() >= identity.value.renewAt;
        const next: Order | undefined = order ?? (due ? 'renew' : undefined);
        order = undefined;
        if (next === undefined) {
          failures = 0;
          continue;
        }
        try {
          await obey(next, identity.value, signal);
          failures = 0;
        } catch (caught) {
          if (signal.aborted) throw abortReason(signal);
          if (isSpiffeError(caught, 'denied') && caught.reason.startsWith('identity.')) throw caught;
          const error = asSpiffeError(caught);
          onEvent({ what: 'failed', error });
          failures += 1;
          // A refusal that says what is the matter is followed; without one the same is tried again.
          order ??= orderFor(error) ?? (next === 'reattest' ? next : undefined);
          await alarm.after(patience(failures), signal);
        }
      }
    },
  };
}

/** Files, configuration, evidence: nothing the server said. */
function isOwnFault(error: SpiffeError): boolean {
  return ['files.', 'trust.', 'evidence.', 'state.'].some((prefix) => error.reason.startsWith(prefix));
}

function gaveUp(reason: GiveUpReason, cause: SpiffeError): SpiffeError {
  return reason === 'banned'
    ? new SpiffeError('denied', 'identity.banned', 'the server has banned this agent', { cause })
    : new SpiffeError('denied', 'identity.must-rejoin', `this agent must join anew: ${cause.message}`, { cause });
}

function asSpiffeError(error: unknown): SpiffeError {
  if (error instanceof SpiffeError) return error;
  return new SpiffeError('internal', 'identity.failed', 'an unexpected failure of the agent itself', { cause: error });
}
