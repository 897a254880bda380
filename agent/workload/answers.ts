/**
 * What is seen of the attestors while they answer: how long each takes, how often one cannot, and a log line when its
 * source goes away or comes back, however many processes ask meanwhile.
 */
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/log.ts';
import { secondsBuckets, type Metrics } from '../../runtime/metrics.ts';
import type { AttestReport } from './attest.ts';

export interface AnswersParts {
  /** Of all attestors there are. */
  readonly names: readonly string[];
  readonly clock: Pick<Clock, 'monotonic'>;
  readonly metrics: Metrics;
  readonly log: Logger;
}

/** Between two lines about one attestor: it may fail for one process and answer for the next. */
const quietMs = 60_000;

export function observeAnswers({ names, clock, metrics, log }: AnswersParts): (report: AttestReport) => void {
  const answers = metrics.histogram(
    { name: 'steeple_agent_attestor_seconds', help: 'Time an attestor took', labels: { attestor: names, outcome: ['answered', 'failed'] } },
    secondsBuckets,
  );
  const failing = new Map<string, { readonly reason: string; readonly at: number }>();
  return ({ attestor, ms, reason, keeps }) => {
    answers.observe({ attestor, outcome: reason === undefined ? 'answered' : 'failed' }, ms / 1000);
    const told = failing.get(attestor);
    const isQuiet = told !== undefined && clock.monotonic() - told.at < quietMs;
    if (reason === undefined) {
      if (told === undefined || isQuiet) return;
      failing.delete(attestor);
      log.info('attestor.answers', { attestor });
    } else if (keeps === true && !isQuiet) {
      // Any other reason is about one process, and on record with it.
      failing.set(attestor, { reason, at: clock.monotonic() });
      if (told?.reason !== reason) log.warn('attestor.failing', { attestor, reason });
    }
  };
}
