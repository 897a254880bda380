/**
 * Keys that live as long as the process, for tests and trials. Nothing is written anywhere.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { generatePair, signWith, type KeyPair } from './key-pair.ts';
import type { KeyStore } from './keys.ts';

export function createMemoryKeyStore(): KeyStore {
  // The name is taken before the key is there, so that two makers of one name do not both succeed.
  const pairs = new Map<string, Promise<KeyPair>>();

  return {
    async generate(name, type) {
      if (pairs.has(name)) throw new SpiffeError('exists', 'keys.exists', `there is a key ${name} already`);
      const making = generatePair(type);
      pairs.set(name, making);
      const { publicKey } = await making;
      return { name, type, publicKey };
    },
    list() {
      return Promise.all(
        [...pairs].map(async ([name, making]) => {
          const { type, publicKey } = await making;
          return { name, type, publicKey };
        }),
      );
    },
    async sign(name, data, form) {
      const pair = await pairs.get(name);
      if (pair === undefined) throw new SpiffeError('missing', 'keys.missing', `there is no key ${name}`);
      return signWith(pair, data, form);
    },
    forget(name) {
      pairs.delete(name);
      return Promise.resolve();
    },
    close: () => Promise.resolve(),
  };
}
