/**
 * Keeps the stream of changes open: says where it stands, takes a snapshot or resumes, applies what commits, confirms what
 * was delivered, and comes back after a break. What the messages look like is `messages.ts`.
 */
import type { Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { abortReason, linkedController } from '../../runtime/abort.ts';
import { backoffMs, type BackoffPolicy } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createAlarm } from '../alarm.ts';
import { isAtLeast, type AuthorityNotice, type HoldingsOwner, type HoldingsStep, type Position } from './holdings.ts';

export interface FollowHello {
  readonly minVersion: number;
  readonly maxVersion: number;
  readonly position: Position | undefined;
}

export type FollowCommand = { readonly action: 'renew' | 'banned' | 'evicted'; readonly reason: string };

export type FollowStep =
  | { readonly what: 'welcome'; readonly version: number; readonly serverTimeAt: number; readonly snapshot: boolean }
  | {
      readonly what: 'snapshot';
      readonly entries: readonly RegistrationEntry[];
      readonly bundles: readonly Bundle[];
      readonly authorities: readonly AuthorityNotice[];
      /** On the last page: what the whole snapshot stands for. */
      readonly last: Position | undefined;
    }
  | {
      readonly what: 'changes';
      readonly position: Position;
      readonly committedAt: number;
      readonly steps: readonly HoldingsStep[];
      readonly commands: readonly FollowCommand[];
    }
  | { readonly what: 'heartbeat'; readonly serverTimeAt: number; readonly position: Position };

/** One open stream. */
export interface FollowStream {
  /** Ends or throws when the stream does. */
  readonly steps: AsyncIterable<FollowStep>;
  confirm(position: Position): void;
}

export interface FollowOptions {
  readonly clock: Clock;
  readonly random: () => number;
  readonly holdings: HoldingsOwner;
  /** Opens a stream over the connection of the moment. @throws as a call; `unsupported` when the server has no such service */
  readonly open: (hello: FollowHello, signal: AbortSignal) => FollowStream;
  /** Resolves when everybody connected has been sent what was applied until now. */
  readonly delivered: () => Promise<void>;
  readonly onCommand: (command: FollowCommand) => void;
  readonly onState: (state: FollowState) => void;
  /** 2 unless an older server is to be imitated. */
  readonly maxVersion?: number;
}

export type FollowState =
  | { readonly state: 'connected'; readonly version: number; readonly skewMs: number; readonly snapshot: boolean }
  /** Everything up to now is applied. */
  | { readonly state: 'current'; readonly position: Position }
  | { readonly state: 'broken'; readonly error: SpiffeError };

export interface Follower {
  /** Monotonic instant of the newest sign of life, if any. */
  readonly heardAt: number | undefined;
  readonly connected: boolean;
  /** Opens the stream anew, over a connection of the moment: the agent has another SVID. */
  reopen(): void;
  /** Returns, with the refusal, only when the server does not have the service; ends otherwise with the signal's reason. */
  run(signal: AbortSignal): Promise<SpiffeError>;
}

/** Heartbeats come at least every 30 s; a connection that lost its other end is found within 90. */
export const silenceMs = 75_000;
/** A workload that reads nothing is cut by then, so this long and no longer it holds a confirmation back. */
const deliveryMs = 60_000;
const reopened = new Error('the stream is opened anew');
const retry: BackoffPolicy = { firstMs: 500, factor: 1.7, longestMs: 15_000, jitter: 0.5 };

export function createFollower(options: FollowOptions): Follower {
  const { clock, random, holdings, delivered, onCommand, onState, maxVersion = 2 } = options;
  let heardAt: number | undefined;
  let connected = false;
  let startOver = false;
  let endStream: (() => void) | undefined;

  const apply = (step: Extract<FollowStep, { what: 'changes' }>): void => {
    checkOrder(step.position);
    holdings.apply(step.steps, { position: step.position, committedAt: step.committedAt });
    for (const command of step.commands) onCommand(command);
  };

  const checkOrder = (position: Position): void => {
    const at = holdings.value.position;
    if (at === undefined || isAtLeast(position, at)) return;
    // Replayed or reordered, or another history without a snapshot: what is held cannot be trusted to be whole.
    startOver = true;
    throw new SpiffeError('conflict', 'follow.order', 'the server went back in the order of changes');
  };

  const confirmations = async (stream: FollowStream, due: ReturnType<typeof createAlarm>, signal: AbortSignal): Promise<never> => {
    let confirmed: Position | undefined;
    for (;;) {
      await due.until(undefined, signal);
      const { position } = holdings.value;
      if (position === undefined || (confirmed !== undefined && isAtLeast(confirmed, position))) continue;
      const patience = linkedController(signal);
      await Promise.race([delivered(), clock.sleep(deliveryMs, patience.signal).catch(() => undefined)]);
      patience.abort(new Error('delivered'));
      patience.unlink();
      if (signal.aborted) throw abortReason(signal);
      stream.confirm(position);
      confirmed = position;
    }
  };

  const read = async (stream: FollowStream, due: ReturnType<typeof createAlarm>, heard: () => void): Promise<void> => {
    let pages: Extract<FollowStep, { what: 'snapshot' }>[] = [];
    let welcomed = false;
    for await (const step of stream.steps) {
      heard();
      if (!welcomed && step.what !== 'welcome') {
        throw new SpiffeError('invalid', 'follow.unwelcome', 'the server did not open with a welcome');
      }
      switch (step.what) {
        case 'welcome':
          if (step.version < 1 || step.version > maxVersion) {
            throw new SpiffeError('unsupported', 'follow.version', 'the server chose a version that was not offered');
          }
          welcomed = true;
          connected = true;
          if (!step.snapshot) startOver = false;
          onState({ state: 'connected', version: step.version, skewMs: step.serverTimeAt - clock.now(), snapshot: step.snapshot });
          continue;
        case 'snapshot':
          pages.push(step);
          if (step.last === undefined) continue;
          holdings.replace({
            position: step.last,
            entries: pages.flatMap((page) => page.entries),
            bundles: pages.flatMap((page) => page.bundles),
            authorities: pages.flatMap((page) => page.authorities),
          });
          pages = [];
          startOver = false;
          break;
        case 'changes':
          if (pages.length > 0) throw new SpiffeError('invalid', 'follow.snapshot-open', 'changes came amid a snapshot');
          apply(step);
          break;
        case 'heartbeat':
          checkOrder(step.position);
          if (holdings.value.position?.revision !== step.position.revision) {
            holdings.apply([], { position: step.position, committedAt: undefined });
          }
          break;
      }
      due.ring();
      const { position } = holdings.value;
      if (position !== undefined) onState({ state: 'current', position });
    }
    throw new SpiffeError('unavailable', 'follow.ended', 'the server ended the stream');
  };

  const followOnce = async (signal: AbortSignal): Promise<never> => {
    const stop = linkedController(signal);
    const due = createAlarm(clock);
    const pulse = createAlarm(clock);
    let heards = 0;
    const heard = (): void => {
      heards += 1;
      heardAt = clock.monotonic();
      pulse.ring();
    };
    const watchSilence = async (): Promise<never> => {
      for (;;) {
        const before = heards;
        await pulse.after(silenceMs, stop.signal);
        if (heards === before) throw new SpiffeError('unavailable', 'follow.silent', 'the server has gone silent');
      }
    };
    try {
      endStream = () => stop.abort(reopened);
      const position = startOver ? undefined : holdings.value.position;
      const stream = options.open({ minVersion: 1, maxVersion, position }, stop.signal);
      return await (Promise.race([read(stream, due, heard), confirmations(stream, due, stop.signal), watchSilence()]) as Promise<never>);
    } finally {
      endStream = undefined;
      connected = false;
      stop.abort(new Error('this stream is over'));
      stop.unlink();
    }
  };

  return {
    get heardAt() {
      return heardAt;
    },
    get connected() {
      return connected;
    },
    reopen() {
      endStream?.();
    },
    async run(signal) {
      let failures = 0;
      for (;;) {
        const startedAt = clock.monotonic();
        try {
          await followOnce(signal);
        } catch (caught) {
          if (signal.aborted) throw abortReason(signal);
          if (caught === reopened) continue;
          const error = asSpiffeError(caught);
          if (isSpiffeError(error, 'unsupported')) return error;
          // A stream that lived a while ended because connections end; the next one is opened without delay.
          failures = clock.monotonic() - startedAt > silenceMs ? 1 : failures + 1;
          onState({ state: 'broken', error });
        }
        await clock.sleep(backoffMs(failures, random(), retry), signal);
      }
    },
  };
}

function asSpiffeError(error: unknown): SpiffeError {
  if (error instanceof SpiffeError) return error;
  return new SpiffeError('internal', 'follow.failed', 'following failed for an unexpected reason', { cause: error });
}
