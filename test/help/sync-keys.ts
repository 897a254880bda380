/**
 * A key store that answers in the turn it is asked, without the thread pool, so that a test clock never has to wait for
 * one. Everything else is as in memory.
 */
import { generateKeyPairSync, sign } from 'node:crypto';
import { pairOf, type KeyPair } from '../../server/authority/key-pair.ts';
import type { KeyStore } from '../../server/authority/keys.ts';
import type { KeyType } from '../../server/store/store.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

function generate(type: KeyType): KeyPair {
  if (type === 'ec-p256') return pairOf(type, generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey);
  if (type === 'ec-p384') return pairOf(type, generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey);
  return pairOf(type, generateKeyPairSync('rsa', { modulusLength: type === 'rsa-2048' ? 2048 : 4096 }).privateKey);
}

export function createSyncKeyStore(): KeyStore {
  const pairs = new Map<string, KeyPair>();
  return {
    async generate(name, type) {
      if (pairs.has(name)) throw new SpiffeError('exists', 'keys.exists', `there is a key ${name} already`);
      const pair = generate(type);
      pairs.set(name, pair);
      return { name, type, publicKey: pair.publicKey };
    },
    async list() {
      return [...pairs].map(([name, { type, publicKey }]) => ({ name, type, publicKey }));
    },
    async sign(name, data, form) {
      const pair = pairs.get(name);
      if (pair === undefined) throw new SpiffeError('missing', 'keys.missing', `there is no key ${name}`);
      const dsaEncoding = form === 'jose' ? 'ieee-p1363' : 'der';
      return sign(pair.type === 'ec-p384' ? 'sha384' : 'sha256', data, { key: pair.privateKey, dsaEncoding });
    },
    async forget(name) {
      pairs.delete(name);
    },
    async close() {
      pairs.clear();
    },
  };
}
