import { expect, it } from 'vitest';
import { createDeliveries } from '../../../agent/svids/delivery.ts';

async function isSettled(promise: Promise<void>): Promise<boolean> {
  return Promise.race([promise.then(() => true), new Promise<boolean>((resolve) => setImmediate(() => resolve(false)))]);
}

it('is settled when nobody is behind', async () => {
  const deliveries = createDeliveries();
  deliveries.open(() => false);
  expect(await isSettled(deliveries.settled())).toBe(true);
});

it('waits for each that is behind now, and not for what comes later', async () => {
  const deliveries = createDeliveries();
  const behind = new Set(['a', 'b']);
  const a = deliveries.open(() => behind.has('a'));
  const b = deliveries.open(() => behind.has('b'));
  const settled = deliveries.settled();
  deliveries.open(() => true);
  expect(await isSettled(settled)).toBe(false);
  // Sent something, but not yet the newest.
  a.sent();
  expect(await isSettled(settled)).toBe(false);
  behind.delete('a');
  a.sent();
  expect(await isSettled(settled)).toBe(false);
  b.close();
  expect(await isSettled(settled)).toBe(true);
  expect(deliveries.size).toBe(2);
});
