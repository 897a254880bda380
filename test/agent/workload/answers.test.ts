import { expect, it } from 'vitest';
import { observeAnswers } from '../../../agent/workload/answers.ts';
import type { Logger } from '../../../runtime/log.ts';
import { createMetrics } from '../../../runtime/metrics.ts';
import { createTestClock } from '../../help/clock.ts';

function setting() {
  const clock = createTestClock();
  const metrics = createMetrics();
  const lines: string[] = [];
  const say = (event: string, fields?: object): void => void lines.push(`${event} ${Object.values(fields ?? {}).join(' ')}`);
  const log: Logger = { debug: say, info: say, warn: say, error: say, child: () => log };
  const tell = observeAnswers({ names: ['unix', 'docker'], clock, metrics, log });
  const answered = { attestor: 'docker', ms: 2, selectors: 3, omitted: [] };
  const gone = { ...answered, selectors: 0, reason: 'docker.unreachable', keeps: true } as const;
  return { clock, metrics, lines, tell, answered, gone };
}

it('says once that a source is away, and once that it is back', async () => {
  const { clock, lines, tell, answered, gone } = setting();
  tell(answered);
  for (let count = 0; count < 100; count += 1) {
    tell(gone);
    await clock.advance(1_000);
  }
  await clock.advance(60_000);
  tell(answered);
  tell(answered);
  expect(lines).toEqual(['attestor.failing docker docker.unreachable', 'attestor.answers docker']);
});

it('stays quiet while an attestor fails for one process and answers for the next', async () => {
  const { clock, lines, tell, answered, gone } = setting();
  for (let count = 0; count < 200; count += 1) {
    tell(gone);
    tell(answered);
    await clock.advance(1_000);
  }
  expect(lines).toEqual(['attestor.failing docker docker.unreachable']);
});

it('leaves what is about one process to the record', () => {
  const { lines, tell, answered } = setting();
  tell({ ...answered, reason: 'container.ambiguous' });
  expect(lines).toEqual([]);
});

it('counts and times every answer', () => {
  const { metrics, tell, answered, gone } = setting();
  tell(answered);
  tell(answered);
  tell(gone);
  const text = metrics.text();
  expect(text).toContain('steeple_agent_attestor_seconds_count{attestor="docker",outcome="answered"} 2');
  expect(text).toContain('steeple_agent_attestor_seconds_count{attestor="docker",outcome="failed"} 1');
  expect(text).toContain('steeple_agent_attestor_seconds_sum{attestor="docker",outcome="answered"} 0.004');
});
