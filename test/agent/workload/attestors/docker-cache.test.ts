import { describe, expect, it } from 'vitest';
import { createAnswerCache } from '../../../../agent/workload/attestors/docker-cache.ts';
import type { AnswerCache } from '../../../../agent/workload/attestors/docker-cache.ts';

interface World {
  readonly cache: AnswerCache<string>;
  now: number;
  asked: number;
  ask(answer: string): () => Promise<string>;
}

function world(maxEntries = 3, maxWeight = 100): World {
  const made: World = {
    now: 0,
    asked: 0,
    ask: (answer) => () => {
      made.asked += 1;
      return Promise.resolve(answer);
    },
    cache: createAnswerCache<string>({
      maxEntries,
      maxWeight,
      monotonic: () => made.now,
      weigh: (answer) => answer.length,
      isGood: (answer, ageMs) => ageMs < (answer === 'never' ? 0 : 1000),
    }),
  };
  return made;
}

describe('an answer', () => {
  it('is kept as long as it is good', async () => {
    const state = world();
    const { cache, ask } = state;
    expect(await cache.of('a', ask('one'))).toBe('one');
    state.now = 999;
    expect(await cache.of('a', ask('two'))).toBe('one');
    state.now = 1000;
    expect(await cache.of('a', ask('two'))).toBe('two');
    expect(state.asked).toBe(2);
    expect(await cache.of('b', ask('never'))).toBe('never');
    expect(await cache.of('b', ask('again'))).toBe('again');
  });

  it('is asked for once however many want it', async () => {
    const { cache } = world();
    const gate = Promise.withResolvers<string>();
    let asked = 0;
    const ask = (): Promise<string> => {
      asked += 1;
      return gate.promise;
    };
    const all = Array.from({ length: 50 }, () => cache.of('a', ask));
    gate.resolve('one');
    expect(new Set(await Promise.all(all))).toEqual(new Set(['one']));
    expect(asked).toBe(1);
  });

  it('under way when it is dropped goes to those who wait, and to nobody after', async () => {
    const { cache, ask } = world();
    const gate = Promise.withResolvers<string>();
    const early = cache.of('a', () => gate.promise);
    cache.drop('a');
    const late = cache.of('a', ask('new'));
    gate.resolve('old');
    expect(await Promise.all([early, late])).toEqual(['old', 'new']);
    expect(await cache.of('a', ask('newer'))).toBe('new');
    const second = Promise.withResolvers<string>();
    const under = cache.of('b', () => second.promise);
    cache.dropIf(() => false);
    second.resolve('old');
    await under;
    expect(await cache.of('b', ask('new'))).toBe('new');
  });

  it('that comes after its key was forgotten takes nobody’s room', async () => {
    const { cache, ask } = world(2, 10);
    const gate = Promise.withResolvers<string>();
    const late = cache.of('a', () => gate.promise);
    await cache.of('b', ask('b'));
    await cache.of('c', ask('c'));
    gate.resolve('123456789');
    expect(await late).toBe('123456789');
    await cache.of('c', ask('new'));
    expect(await cache.of('b', ask('new'))).toBe('b');
    expect(cache.size).toBe(2);
  });

  it('that matches is dropped, the others stay', async () => {
    const { cache, ask } = world();
    await cache.of('a', ask('one'));
    await cache.of('b', ask('two'));
    cache.dropIf((answer) => answer === 'one');
    expect(await cache.of('a', ask('new'))).toBe('new');
    expect(await cache.of('b', ask('new'))).toBe('two');
  });

  it('makes room for others by number and by weight, the one used longest ago first', async () => {
    const { cache, ask } = world(3, 10);
    for (const key of ['a', 'b', 'c']) await cache.of(key, ask(key));
    await cache.of('a', ask('other'));
    await cache.of('d', ask('d'));
    expect(cache.size).toBe(3);
    expect(await cache.of('a', ask('new'))).toBe('a');
    expect(await cache.of('b', ask('new'))).toBe('new');
    await cache.of('e', ask('123456789'));
    expect(cache.size).toBeLessThan(3);
    expect(await cache.of('e', ask('new'))).toBe('123456789');
    // Dropping gives its weight back.
    for (let round = 0; round < 20; round += 1) {
      cache.drop('e');
      await cache.of('e', ask('123456789'));
    }
    expect(await cache.of('e', ask('new'))).toBe('123456789');
  });
});

describe('changes', () => {
  it('tell of each drop of their key, and close when it is forgotten', async () => {
    const { cache, ask } = world();
    const watch = cache.changes('a');
    expect(cache.changes('a')).toBe(watch);
    await cache.of('a', ask('one'));
    const before = watch.value;
    cache.drop('b');
    expect(watch.value).toBe(before);
    cache.drop('a');
    expect(watch.value).not.toBe(before);
    cache.dropIf(() => true);
    expect(watch.value).toBe(before + 1);
    for (const key of ['b', 'c', 'd']) await cache.of(key, ask(key));
    const seen: number[] = [];
    for await (const value of watch.values(new AbortController().signal)) seen.push(value);
    expect(seen).toEqual([before + 1]);
  });
});
