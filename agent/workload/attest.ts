/**
 * What is true of a connected process: all attestors asked at once under a deadline, their selectors joined, and the
 * process the same one before and after. Which identities follow from the selectors is `spiffe/authorize.ts`.
 */
import { abortReason, linkedController, untilAborted } from '../../runtime/abort.ts';
import { backoffMs } from '../../runtime/backoff.ts';
import type { BackoffPolicy } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Peer } from '../../runtime/peer.ts';
import type { Watch } from '../../runtime/watch.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { isSubset } from '../../spiffe/selector.ts';
import type { Selector, SelectorSet } from '../../spiffe/selector.ts';
import type { AttestQuestion, Omit, WantedSelectors, WorkloadAttestor } from './attestor.ts';
import { requireSame } from './same-process.ts';

export interface AttestReport {
  readonly attestor: string;
  /** How long it took, in milliseconds. */
  readonly ms: number;
  /** How many selectors it gave. */
  readonly selectors: number;
  /** Why it gave none: a SpiffeError's reason, `attest.deadline` or `attest.attestor`. */
  readonly reason?: string;
  /** Its source could not be asked, so what it gave of this process before still stands. */
  readonly keeps?: true;
  readonly omitted: readonly { readonly what: string; readonly reason: string }[];
}

export interface Attestation {
  readonly selectors: SelectorSet;
  /** The same by attestor; empty for one that failed. */
  readonly given: ReadonlyMap<string, readonly Selector[]>;
  /** One per attestor, in the order they are configured. */
  readonly reports: readonly AttestReport[];
  /** True if an attestor failed, so that asking again in a while may add selectors. */
  readonly incomplete: boolean;
  /** Facts still being established: resolves, never rejects, when asking again may add selectors. */
  readonly pending: Promise<void> | undefined;
  /** Each has another value once what an attestor said may be true no more. */
  readonly rechecks: readonly Recheck[];
}

/** A watch as it was while an attestor answered. */
export interface Recheck {
  readonly watch: Watch<unknown>;
  readonly value: unknown;
}

export interface AttestOptions {
  readonly attestors: readonly WorkloadAttestor[];
  readonly clock: Clock;
  /** An attestor that takes longer counts as failed this time. */
  readonly deadlineMs?: number;
  /** Told of each answer that somebody still waits for, as it comes. */
  readonly onAnswer?: (report: AttestReport) => void;
}

/**
 * Never retried in here.
 * @throws denied `peer.exited|closed|image` when the process is not the one that connected, or not any more; the signal's
 * reason
 */
export type Attest = (peer: Peer, wanted: WantedSelectors, signal: AbortSignal) => Promise<Attestation>;

const DEFAULT_DEADLINE_MS = 5_000;

/** At a steady trickle: an attestor that depends on another program is asked again until that program is back. */
const retryPolicy: BackoffPolicy = { firstMs: 500, factor: 2, longestMs: 15_000, jitter: 0.2 };

export function createAttest(options: AttestOptions): Attest {
  const { attestors, clock, deadlineMs = DEFAULT_DEADLINE_MS, onAnswer } = options;
  return async (peer, wanted, signal) => {
    requireSame(peer);
    const stop = linkedController(signal);
    const onGone = (): void => stop.abort(abortReason(peer.signal));
    peer.signal.addEventListener('abort', onGone, { once: true });
    try {
      const asking = { peer, wanted, clock, deadlineMs, onAnswer, signal: stop.signal };
      const answers = await Promise.all(attestors.map((attestor) => ask(attestor, asking)));
      signal.throwIfAborted();
      requireSame(peer);
      return assemble(answers);
    } finally {
      peer.signal.removeEventListener('abort', onGone);
      stop.unlink();
    }
  };
}

interface Answer {
  readonly report: AttestReport;
  readonly selectors: readonly Selector[];
  readonly until: readonly Promise<unknown>[];
  readonly rechecks: readonly Recheck[];
}

interface Asking {
  readonly peer: Peer;
  readonly wanted: WantedSelectors;
  readonly clock: Clock;
  readonly deadlineMs: number;
  readonly onAnswer: AttestOptions['onAnswer'];
  readonly signal: AbortSignal;
}

/** Never rejects: a failure is an answer without selectors. */
async function ask(attestor: WorkloadAttestor, asking: Asking): Promise<Answer> {
  const { peer, wanted, clock, deadlineMs, onAnswer, signal } = asking;
  const beganAt = clock.monotonic();
  const omitted: { what: string; reason: string }[] = [];
  const until: Promise<unknown>[] = [];
  const rechecks: Recheck[] = [];
  let open = true;
  const omit: Omit = (what, reason, promise) => {
    if (!open) return;
    omitted.push({ what, reason });
    if (promise !== undefined) until.push(promise);
  };
  const stop = linkedController(signal);
  const recheck: AttestQuestion['recheck'] = (watch) => {
    if (open) rechecks.push({ watch, value: watch.value });
  };
  const finish = (selectors: readonly Selector[], failure: Pick<AttestReport, 'reason' | 'keeps'>): Answer => {
    open = false;
    const ms = clock.monotonic() - beganAt;
    const report: AttestReport = { attestor: attestor.name, ms, selectors: selectors.length, ...failure, omitted };
    // When the process or the caller has left, how an attestor ended says nothing of the attestor.
    if (!signal.aborted) onAnswer?.(report);
    return { report, selectors, until, rechecks };
  };
  const deadline = clock.sleep(deadlineMs, stop.signal).then(() => {
    throw new SpiffeError('unavailable', 'attest.deadline', 'the attestor took too long');
  });
  try {
    return finish(await Promise.race([attestor.attest(peer, { wanted, signal: stop.signal, omit, recheck }), deadline]), {});
  } catch (error) {
    if (!(error instanceof SpiffeError)) return finish([], { reason: 'attest.attestor' });
    return finish([], { reason: error.reason, ...(error.kind === 'unavailable' ? { keeps: true } : {}) });
  } finally {
    deadline.catch(() => undefined);
    stop.abort(new Error('this attestation is over'));
    stop.unlink();
  }
}

function assemble(answers: readonly Answer[]): Attestation {
  const reports = answers.map((answer) => answer.report);
  const failed = reports.filter((report) => report.reason !== undefined);
  const until = answers.flatMap((answer) => answer.until);
  return {
    selectors: new Set(answers.flatMap((answer) => answer.selectors)),
    given: new Map(answers.map((answer) => [answer.report.attestor, answer.selectors])),
    reports,
    incomplete: failed.length > 0,
    pending: until.length === 0 ? undefined : Promise.allSettled(until).then(() => undefined),
    rechecks: answers.flatMap((answer) => answer.rechecks),
  };
}

/**
 * An attestor whose subject the process is not has nothing to say, and did not fail.
 * @throws unavailable `attest.failed` when one failed, or there is none, and the others gave nothing
 */
function requireAnswer({ selectors, reports, incomplete }: Attestation): void {
  if (selectors.size > 0 || (!incomplete && reports.length > 0)) return;
  const reasons = reports.flatMap(({ attestor, reason }) => (reason === undefined ? [] : [`${attestor}: ${reason}`])).join(', ');
  throw new SpiffeError('unavailable', 'attest.failed', 'no attestor could tell what this process is', { detail: { reasons } });
}

export interface FollowOptions {
  readonly attest: Attest;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  /** Asked again after this at the latest: a process can be moved to another group of processes without a word. */
  readonly longestMs?: number;
}

const DEFAULT_LONGEST_MS = 60_000;

/**
 * Attests, and again whenever that may tell more or otherwise: a pending fact is there, an attestor failed a while ago or
 * has another answer, other selectors are wanted, or a minute went by. Yields the first attestation, then each whose selectors differ from the one before. What an
 * attestor gave once stays while its source cannot be asked: the process is still the same one.
 * Ends when the signal aborts; throws what `attest` throws, and the first time as `requireAnswer`.
 */
export async function* followAttestation(
  options: FollowOptions,
  peer: Peer,
  wanted: Watch<WantedSelectors>,
  signal: AbortSignal,
): AsyncIterableIterator<Attestation> {
  let last: Attestation | undefined;
  let failures = 0;
  while (!signal.aborted) {
    const asked = wanted.value;
    const attestation = keeping(last, await options.attest(peer, asked, signal));
    if (last === undefined) requireAnswer(attestation);
    if (last === undefined || !sameSet(last.selectors, attestation.selectors)) yield attestation;
    last = attestation;
    failures = attestation.incomplete ? failures + 1 : 0;
    const { longestMs = DEFAULT_LONGEST_MS } = options;
    const delayMs = failures === 0 ? longestMs * (0.9 + 0.2 * options.random()) : backoffMs(failures, options.random(), retryPolicy);
    await untilWorthAsking(options.clock, { wanted, asked, attestation, delayMs }, peer, signal);
  }
}

/** With what attestors gave before whose sources cannot be asked now. */
function keeping(last: Attestation | undefined, now: Attestation): Attestation {
  if (last === undefined || !now.incomplete) return now;
  const given = new Map(now.given);
  for (const { attestor, keeps } of now.reports) if (keeps === true) given.set(attestor, last.given.get(attestor) ?? []);
  return { ...now, given, selectors: new Set([...given.values()].flat()) };
}

interface Occasions {
  readonly wanted: Watch<WantedSelectors>;
  readonly asked: WantedSelectors;
  readonly attestation: Attestation;
  readonly delayMs: number;
}

/** Returns at the first occasion, or when the signal or the peer's aborts. */
async function untilWorthAsking(clock: Clock, occasions: Occasions, peer: Peer, signal: AbortSignal): Promise<void> {
  const stop = linkedController(signal);
  const over = Promise.withResolvers<void>();
  const onOver = (): void => over.resolve();
  signal.addEventListener('abort', onOver, { once: true });
  peer.signal.addEventListener('abort', onOver, { once: true });
  if (signal.aborted || peer.signal.aborted) onOver();
  try {
    const waits = [over.promise, otherValue(occasions.wanted, occasions.asked, stop.signal)];
    waits.push(clock.sleep(occasions.delayMs, stop.signal).catch(() => undefined));
    const { pending, rechecks } = occasions.attestation;
    if (pending !== undefined) waits.push(pending);
    for (const { watch, value } of rechecks) waits.push(otherValue(watch, value, stop.signal));
    await Promise.race(waits);
  } finally {
    signal.removeEventListener('abort', onOver);
    peer.signal.removeEventListener('abort', onOver);
    stop.abort(new Error('waited enough'));
    stop.unlink();
  }
}

/** Stays pending after the watch closed: no other value will come. */
async function otherValue<T>(watch: Watch<T>, than: T, signal: AbortSignal): Promise<void> {
  for await (const value of watch.values(signal)) if (value !== than) return;
  if (!signal.aborted) await untilAborted(new Promise<never>(() => undefined), signal).catch(() => undefined);
}

function sameSet(a: SelectorSet, b: SelectorSet): boolean {
  return a.size === b.size && isSubset(a, b);
}
