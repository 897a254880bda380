import { describe, expect, it } from 'vitest';
import { createHealth } from '../../runtime/health.ts';
import { notifyWhenReady } from '../../runtime/notify.ts';

const live = new AbortController().signal;

describe('notifyWhenReady', () => {
  it.each([undefined, ''])('has nobody to tell at %o, and waits for nothing', async (address) => {
    const health = createHealth();
    health.condition('never', 'never met');
    await notifyWhenReady(health.state, address, live);
  });

  it('waits until every condition is met, and outlives a manager that does not listen', async () => {
    const health = createHealth();
    const [one, two] = [health.condition('one', 'not yet'), health.condition('two', 'not yet')];
    let told = false;
    const telling = notifyWhenReady(health.state, '/nonexistent/notify.sock', live).then(() => (told = true));
    one.meet();
    await new Promise(setImmediate);
    expect(told).toBe(false);
    two.meet();
    await telling;
  });

  it('ends with the signal', async () => {
    const health = createHealth();
    health.condition('never', 'never met');
    const stop = new AbortController();
    const telling = notifyWhenReady(health.state, '/nonexistent/notify.sock', stop.signal);
    stop.abort(new Error('over'));
    await telling;
  });
});
