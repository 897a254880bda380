import { expect, test } from 'vitest';

import { crashRounds } from '../help/store-crash.ts';

/** Twenty for each of the rounds that STEEPLE_ROUNDS names for all long runs. */
const rounds = 20 * Number(process.env['STEEPLE_ROUNDS'] ?? '4');

test(`T-F06 killed ${String(rounds)} times in the middle of writing`, { timeout: rounds * 30_000 }, async () => {
  expect(await crashRounds(rounds)).toBeGreaterThan(rounds * 50);
});
