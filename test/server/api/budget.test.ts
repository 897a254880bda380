import { describe, expect, it } from 'vitest';
import { createBudgets, defaultBudgetRates } from '../../../server/api/budget.ts';
import { createTestClock } from '../../help/clock.ts';

const rates = { ...defaultBudgetRates, signing: 10 };

describe('budgets', () => {
  it('spire-wire 12: a caller waits for tokens', async () => {
    const clock = createTestClock();
    const budgets = createBudgets(clock, () => rates);
    const { signal } = new AbortController();
    await budgets.take('signing', 'a', 10, signal);
    let done = false;
    const waiting = budgets.take('signing', 'a', 5, signal).then(() => (done = true));
    await clock.advance(400);
    expect(done).toBe(false);
    await clock.advance(100);
    await waiting;
  });

  it('spire-wire 12: more than the burst is refused, and costs nothing', async () => {
    const budgets = createBudgets(createTestClock(), () => rates);
    const { signal } = new AbortController();
    await expect(budgets.take('signing', 'a', 11, signal)).rejects.toMatchObject({ kind: 'limited', reason: 'access.budget.burst' });
    await budgets.take('signing', 'a', 10, signal);
  });

  it('T-H02 a queue longer than the wait allowed is refused', async () => {
    const budgets = createBudgets(createTestClock(), () => rates);
    const stop = new AbortController();
    const waits = Array.from({ length: 11 }, () => budgets.take('signing', 'a', 10, stop.signal));
    await expect(budgets.take('signing', 'a', 10, stop.signal)).rejects.toMatchObject({ reason: 'access.budget.wait' });
    stop.abort(new Error('done'));
    await Promise.allSettled(waits);
  });

  it('T-H02 one caller does not spend the tokens of another', async () => {
    const budgets = createBudgets(createTestClock(), () => rates);
    const { signal } = new AbortController();
    await budgets.take('signing', 'a', 10, signal);
    await budgets.take('signing', 'b', 10, signal);
    await budgets.take('tokens', 'a', 10, signal);
  });

  it('a rate of 0 switches the limit off, and a reload takes effect at once', async () => {
    let current = { ...rates, signing: 0 };
    const budgets = createBudgets(createTestClock(), () => current);
    const { signal } = new AbortController();
    await budgets.take('signing', 'a', 100_000, signal);
    current = rates;
    await expect(budgets.take('signing', 'a', 11, signal)).rejects.toMatchObject({ reason: 'access.budget.burst' });
  });
});
