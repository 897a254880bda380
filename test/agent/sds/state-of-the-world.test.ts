import { describe, expect, it } from 'vitest';
import type { Secret, Secrets } from '../../../agent/sds/dialect.ts';
import { createStateOfTheWorld, versionOf, type SecretRequest } from '../../../agent/sds/state-of-the-world.ts';

const secret = (name: string, version: string): Secret => ({ name, version, encoded: () => Buffer.alloc(0), svid: undefined });
/** `a1` is the secret `a` in its version `a1`; `b?` is one to come. */
const world = (...texts: readonly string[]): Secrets => new Map(texts.map((text) => [text.slice(0, 1), text.endsWith('?') ? ('pending' as const) : secret(text.slice(0, 1), text)]));
const ask = (names: readonly string[], nonce = '', rejected?: string): SecretRequest => ({ names, nonce, rejected });

function stream(): {
  readonly take: (names: readonly string[], nonce?: string, rejected?: string) => string | undefined;
  readonly say: (...there: readonly string[]) => readonly string[] | undefined;
  nonce: string;
  readonly dialect: ReturnType<typeof createStateOfTheWorld>;
} {
  const dialect = createStateOfTheWorld();
  const one = {
    dialect,
    nonce: '',
    take: (names: readonly string[], nonce?: string, rejected?: string) => dialect.take(ask(names, nonce, rejected)),
    say(...there: readonly string[]) {
      const said = dialect.say(world(...there));
      if (said !== undefined) one.nonce = said.nonce;
      return said?.secrets.map(({ version }) => version);
    },
  };
  return one;
}

describe('state of the world', () => {
  it('says nothing before it is asked', () => {
    expect(stream().say('a1')).toBeUndefined();
  });

  it('an acknowledgement is not answered; a new version is', () => {
    const one = stream();
    one.take(['a']);
    expect(one.say('a1')).toEqual(['a1']);
    one.take(['a'], one.nonce);
    expect(one.say('a1')).toBeUndefined();
    expect(one.say('a2')).toEqual(['a2']);
  });

  it('a refusal is told, and not answered with the same again', () => {
    const one = stream();
    one.take(['a']);
    one.say('a1');
    expect(one.take(['a'], one.nonce, 'bad key')).toBe('bad key');
    expect(one.say('a1')).toBeUndefined();
    expect(one.say('a2')).toEqual(['a2']);
  });

  it('a request from before the last response is ignored, a refusal too', () => {
    const one = stream();
    one.take(['a']);
    one.say('a1');
    const first = one.nonce;
    one.say('a2');
    expect(one.take(['b'], first, 'bad')).toBeUndefined();
    one.take(['b'], '');
    expect([...(one.dialect.selection?.names ?? [])]).toEqual(['a']);
  });

  it('the first request of a stream is taken whatever nonce it has from an earlier one', () => {
    const one = stream();
    one.take(['a'], '00000007');
    expect(one.say('a1')).toEqual(['a1']);
  });

  it('other names are answered with all of them, the same names in another order are not', () => {
    const one = stream();
    one.take(['a', 'b']);
    expect(one.say('a1', 'b1')).toEqual(['a1', 'b1']);
    one.take(['b', 'a', 'a', ''], one.nonce);
    expect(one.say('a1', 'b1')).toBeUndefined();
    one.take(['a'], one.nonce);
    expect(one.say('a1')).toEqual(['a1']);
  });

  it('what is unknown or to come is left out, and sent with the rest when it is there', () => {
    const one = stream();
    one.take(['a', 'b', 'c']);
    expect(one.say('a1', 'c?')).toEqual(['a1']);
    expect(one.say('a1', 'c1')).toEqual(['a1', 'c1']);
    expect(one.say('a1', 'b1', 'c1')).toEqual(['a1', 'b1', 'c1']);
  });

  it('waits with a response that would be empty, as one to Envoy must not be', () => {
    const one = stream();
    one.take(['a']);
    expect(one.say('a?')).toBeUndefined();
    expect(one.say()).toBeUndefined();
    expect(one.say('a1')).toEqual(['a1']);
    expect(one.say()).toBeUndefined();
    expect(one.say('a1')).toBeUndefined();
  });

  it('no names at first are everything, and none after some are nothing', () => {
    const [all, none] = [stream(), stream()];
    all.take([]);
    expect(all.dialect.selection).toMatchObject({ everything: true });
    all.say('a1');
    all.take([], all.nonce);
    expect(all.dialect.selection).toMatchObject({ everything: true });
    none.take(['a']);
    none.say('a1');
    none.take([], none.nonce);
    expect(none.dialect.selection).toMatchObject({ everything: false, names: new Set() });
    expect(none.say()).toBeUndefined();
  });

  it('each response has a nonce of its own', () => {
    const one = stream();
    one.take(['a']);
    const nonces = new Set(Array.from({ length: 20 }, (_, index) => (one.say(`a${index}`), one.nonce)));
    expect(nonces.size).toBe(20);
  });

  it('the version of one secret is its own; that of several does not depend on their order', () => {
    const [a, b] = [secret('a', 'v1'), secret('b', 'v2')];
    expect(versionOf([a])).toBe('v1');
    expect(versionOf([a, b])).toBe(versionOf([b, a]));
    expect(versionOf([a, b])).not.toBe(versionOf([secret('b', 'v1'), secret('a', 'v2')]));
  });

  it('takes no more names than a stream may have', () => {
    const many = Array.from({ length: 1_001 }, (_, index) => String(index));
    expect(() => stream().take(many)).toThrow(expect.objectContaining({ kind: 'limited', reason: 'sds.names' }));
    expect(() => stream().take([...many.slice(1), ...many.slice(1)])).not.toThrow();
  });
});
