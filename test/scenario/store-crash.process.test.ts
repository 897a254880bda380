import { expect, test } from 'vitest';

import { crashRounds } from '../help/store-crash.ts';

test('T-F06 killed in the middle of writing, a store has all it answered for, no half of anything, and opens at once', async () => {
  expect(await crashRounds(6)).toBeGreaterThan(300);
});
