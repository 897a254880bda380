import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { closeSource, follow, type Following, pickFrom, pickHint, prepareSource, requireOpen, type SourceParts, untilReady } from '../../client/follow.ts';
import type { WatchOptions } from '../../client/workload-api.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { createTestClock, type TestClock } from '../help/clock.ts';

const denied = new SpiffeError('denied', 'workload.no-identity', 'no identity issued');
const away = new SpiffeError('unavailable', 'rpc.unreachable', 'away');

let clock: TestClock;
let parts: SourceParts;
let following: Following;
let held: string | undefined;
let ended: unknown[];
/** What the agent says, in order: an update, an error after which the watch goes on, or one that ends it. */
let say: (word: string | SpiffeError) => Promise<void>;
let fail: (error: Error) => void;

function begin(withdrawAfterMs?: number): void {
  parts = prepareSource({ address: 'unix:///nonexistent', clock, ...(withdrawAfterMs !== undefined && { withdrawAfterMs }) });
  held = undefined;
  ended = [];
  let push: (word: string) => void = () => undefined;
  let lose: (error: Error) => void = () => undefined;
  let tell: WatchOptions['onError'];
  async function* watch(signal: AbortSignal, options: WatchOptions): AsyncIterableIterator<string> {
    tell = options.onError;
    const aborted = new Promise<undefined>((resolve) => {
      signal.addEventListener('abort', () => resolve(undefined), { once: true });
    });
    for (;;) {
      const word = await Promise.race([aborted, new Promise<string>((resolve, reject) => { push = resolve; lose = reject; })]);
      if (word === undefined) return;
      yield word;
    }
  }
  following = follow(parts, {
    watch,
    accept(word: string) {
      if (word === 'unusable') throw new SpiffeError('missing', 'source.pick', 'not to be used');
      held = word;
    },
    withdraw: () => void (held = undefined),
    ended: (error) => void ended.push(error),
  });
  say = async (word) => {
    if (typeof word === 'string') push(word);
    else tell?.(word);
    await clock.settle();
  };
  fail = (error) => lose(error);
}

beforeEach(() => {
  clock = createTestClock();
});

afterEach(() => closeSource(parts, [following]));

describe('what is held', () => {
  it('is let go once a denial has stood for a minute, and not by what lies between', async () => {
    begin();
    await say('one');
    await say(denied);
    await clock.advance(59_000);
    await say(denied);
    expect(held).toBe('one');
    await say(away);
    await clock.advance(2_000);
    await say(away);
    expect(held).toBe('one');
    await say(denied);
    expect(held).toBeUndefined();
    await say('two');
    expect(held).toBe('two');
  });

  it('is let go for no denial that a grant ended', async () => {
    begin();
    await say('one');
    await say(denied);
    await clock.advance(59_000);
    await say('two');
    await say(denied);
    await clock.advance(30_000);
    await say(denied);
    expect(held).toBe('two');
  });

  it.each([
    [0, undefined],
    [Number.POSITIVE_INFINITY, 'one'],
  ])('with a patience of %d ms is %s after a denial', async (patience, expected) => {
    begin(patience);
    await say('one');
    await say(denied);
    await clock.advance(86_400_000);
    await say(denied);
    expect(held).toBe(expected);
  });

  it('stays when an update cannot be used, and when the watch ends for good', async () => {
    begin();
    await say('one');
    await say('unusable');
    expect(held).toBe('one');
    fail(new SpiffeError('unsupported', 'workload.off', 'not served'));
    await following.done;
    expect(held).toBe('one');
    expect(ended).toMatchObject([{ reason: 'workload.off' }]);
  });
});

describe('waiting to be ready', () => {
  it('takes an update that can be used', async () => {
    begin();
    const ready = untilReady(parts, [following], undefined);
    await say('unusable');
    await say('one');
    await ready;
    expect(held).toBe('one');
    requireOpen(parts);
  });

  it('is given up with the signal, and says what was wrong last', async () => {
    begin();
    const stop = new AbortController();
    const refused = untilReady(parts, [following], stop.signal).catch((error: unknown) => error);
    await say(away);
    await say(denied);
    stop.abort();
    expect(await refused).toMatchObject({ kind: 'unavailable', reason: 'source.aborted', cause: denied });
    expect(() => requireOpen(parts)).toThrow(expect.objectContaining({ reason: 'source.closed' }));
  });

  it('ends with what cannot be mended', async () => {
    begin();
    const refused = untilReady(parts, [following], undefined).catch((error: unknown) => error);
    await clock.settle();
    fail(new SpiffeError('invalid', 'workload.header', 'security header missing'));
    expect(await refused).toMatchObject({ kind: 'invalid', reason: 'workload.header' });
  });
});

describe('picking', () => {
  const svids = [{ hint: '' }, { hint: 'a' }, { hint: 'b' }];

  it('WLAPI-32, WLAPI-33: takes the first, or the one with the hint, or says that there is none', () => {
    begin();
    expect(pickFrom(svids, undefined)).toBe(svids[0]);
    expect(pickFrom(svids, pickHint('b'))).toBe(svids[2]);
    expect(() => pickFrom(svids, pickHint('c'))).toThrow(expect.objectContaining({ kind: 'missing', reason: 'source.pick' }));
    expect(() => pickFrom([], undefined)).toThrow(expect.objectContaining({ reason: 'source.pick' }));
  });
});
