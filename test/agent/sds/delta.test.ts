import { describe, expect, it } from 'vitest';
import { createDelta, type DeltaRequest } from '../../../agent/sds/delta.ts';
import type { Secret, Secrets } from '../../../agent/sds/dialect.ts';

const secret = (name: string, version: string): Secret => ({ name, version, encoded: () => Buffer.alloc(0), svid: undefined });
/** `a1` is the secret `a` in its version `a1`; `b?` is one to come. */
const world = (texts: readonly string[]): Secrets => new Map(texts.map((text) => [text.slice(0, 1), text.endsWith('?') ? ('pending' as const) : secret(text.slice(0, 1), text)]));

interface Step {
  readonly ask?: Partial<DeltaRequest>;
  readonly there: readonly string[];
  /** Versions sent, and names told gone as `-a`; `undefined` for no response. */
  readonly said: readonly string[] | undefined;
}

const subscribe = (...names: readonly string[]): Partial<DeltaRequest> => ({ subscribe: names });

const stories: readonly (readonly [string, readonly Step[]])[] = [
  ['a subscription is answered once, and again for another version', [
    { ask: subscribe('a'), there: ['a1'], said: ['a1'] },
    { there: ['a1'], said: undefined },
    { there: ['a2'], said: ['a2'] },
  ]],
  ['an acknowledgement is not answered', [
    { ask: subscribe('a'), there: ['a1'], said: ['a1'] },
    { ask: { nonce: '00000001' }, there: ['a1'], said: undefined },
  ]],
  ['only what changed is sent', [
    { ask: subscribe('a', 'b'), there: ['a1', 'b1'], said: ['a1', 'b1'] },
    { there: ['a1', 'b2'], said: ['b2'] },
  ]],
  ['what is unknown is told once, and sent when it comes', [
    { ask: subscribe('a', 'b'), there: ['a1'], said: ['a1', '-b'] },
    { there: ['a1'], said: undefined },
    { there: ['a1', 'b1'], said: ['b1'] },
    { there: ['a1'], said: ['-b'] },
  ]],
  ['what is to come is not told gone', [
    { ask: subscribe('a'), there: ['a?'], said: undefined },
    { there: ['a1'], said: ['a1'] },
    { there: ['a?'], said: undefined },
    { there: ['a1'], said: undefined },
  ]],
  ['more is subscribed to later, and only that is sent', [
    { ask: subscribe('a'), there: ['a1'], said: ['a1'] },
    { ask: { subscribe: ['b'], nonce: '00000001' }, there: ['a1', 'b1'], said: ['b1'] },
  ]],
  ['whoever subscribes again is told again, of an unknown name too', [
    { ask: subscribe('a', 'b'), there: ['a1'], said: ['a1', '-b'] },
    { ask: subscribe('a', 'b'), there: ['a1'], said: ['a1', '-b'] },
  ]],
  ['what was unsubscribed is not sent, and is when subscribed to again', [
    { ask: subscribe('a', 'b'), there: ['a1', 'b1'], said: ['a1', 'b1'] },
    { ask: { unsubscribe: ['a'] }, there: ['b1'], said: undefined },
    { there: ['b2'], said: ['b2'] },
    { ask: subscribe('a'), there: ['a1', 'b2'], said: ['a1'] },
  ]],
  ['versions of an earlier stream are not sent again, others are', [
    { ask: { subscribe: ['a', 'b', 'c'], versions: new Map([['a', 'a1'], ['b', 'b0'], ['z', 'z1']]) }, there: ['a1', 'b1', 'c1'], said: ['b1', 'c1'] },
  ]],
  ['what went between two streams is told', [
    { ask: { subscribe: ['a'], versions: new Map([['a', 'a1']]) }, there: [], said: ['-a'] },
  ]],
  ['versions count in the first request alone', [
    { ask: subscribe('a'), there: ['a1'], said: ['a1'] },
    { ask: { subscribe: ['b'], versions: new Map([['b', 'b1']]) }, there: ['a1', 'b1'], said: ['b1'] },
  ]],
  ['no names at first are everything that is and comes', [
    { ask: {}, there: ['a1'], said: ['a1'] },
    { there: ['a1', 'b1'], said: ['b1'] },
    { there: ['b1'], said: ['-a'] },
    { there: ['b1'], said: undefined },
  ]],
  ['everything, as an earlier stream had it', [
    { ask: { versions: new Map([['a', 'a1'], ['b', 'b1']]) }, there: ['a1'], said: ['-b'] },
  ]],
  ['the asterisk is everything, with a name beside it', [
    { ask: subscribe('*', 'z'), there: ['a1'], said: ['a1', '-z'] },
    { ask: { unsubscribe: ['*'] }, there: ['z1'], said: ['z1'] },
  ]],
  ['empty names are none', [
    { ask: subscribe('', 'a'), there: ['a1'], said: ['a1'] },
  ]],
];

describe('delta', () => {
  it.each(stories)('%s', (_what, steps) => {
    const delta = createDelta();
    for (const [index, { ask, there, said }] of steps.entries()) {
      if (ask !== undefined) delta.take({ subscribe: [], unsubscribe: [], versions: new Map(), nonce: '', rejected: undefined, ...ask });
      const answer = delta.say(world(there));
      const told = answer === undefined ? undefined : [...answer.secrets.map(({ version }) => version), ...answer.removed.map((name) => `-${name}`)];
      expect(told, `step ${index}`).toEqual(said);
    }
  });

  it('says nothing before it is asked', () => {
    expect(createDelta().selection).toBeUndefined();
  });

  it('a refusal is told when it is of the last response', () => {
    const delta = createDelta();
    const take = (nonce: string): string | undefined => delta.take({ subscribe: ['a'], unsubscribe: [], versions: new Map(), nonce, rejected: 'bad key' });
    expect(take('00000001')).toBeUndefined();
    const first = delta.say(world(['a1']))?.nonce ?? '';
    const second = delta.say(world(['a2']))?.nonce ?? '';
    expect(take(first)).toBeUndefined();
    expect(take(second)).toBe('bad key');
  });

  it('takes no more names than a stream may have, over all its requests', () => {
    const delta = createDelta();
    const take = (from: number, unsubscribe: readonly string[] = []): void =>
      void delta.take({ subscribe: Array.from({ length: 600 }, (_, index) => String(from + index)), unsubscribe, versions: new Map(), nonce: '', rejected: undefined });
    take(0);
    take(100);
    expect(() => take(1_000)).toThrow(expect.objectContaining({ kind: 'limited', reason: 'sds.names' }));
  });
});
