import { expect, it } from 'vitest';
import { createTurns } from '../../../server/admission/turns.ts';

/** Work that ends when it is told to. */
function workOf(name: string, begun: string[]) {
  let end: (how?: Error) => void = () => undefined;
  const done = new Promise<string>((resolve, reject) => {
    end = (how) => (how === undefined ? resolve(name) : reject(how));
  });
  return { run: () => (begun.push(name), done), end: (how?: Error) => end(how) };
}

it('does so many at once, the others in the order they came, failed ones among them', async () => {
  const turns = createTurns({ atOnce: 2, inLine: 3 });
  const begun: string[] = [];
  const all = ['a', 'b', 'c', 'd', 'e'].map((name) => workOf(name, begun));
  const results = all.map(({ run }) => turns.take(run));
  await Promise.resolve();
  expect(begun).toEqual(['a', 'b']);
  all[1]?.end(new Error('failed'));
  await expect(results[1]).rejects.toThrow('failed');
  expect(begun).toEqual(['a', 'b', 'c']);
  for (const each of all) each.end();
  expect((await Promise.allSettled(results)).map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'fulfilled', 'fulfilled']);
  expect(begun).toEqual(['a', 'b', 'c', 'd', 'e']);
});

it('refuses who finds the line full, and takes others again when it is not', async () => {
  const turns = createTurns({ atOnce: 1, inLine: 1 });
  const begun: string[] = [];
  const [first, second] = [workOf('a', begun), workOf('b', begun)];
  const results = [turns.take(first.run), turns.take(second.run)];
  await expect(turns.take(() => Promise.resolve('c'))).rejects.toMatchObject({ kind: 'limited', reason: 'turns.full' });
  first.end();
  second.end();
  await Promise.all(results);
  expect(await turns.take(() => Promise.resolve('d'))).toBe('d');
  expect(begun).toEqual(['a', 'b']);
});
