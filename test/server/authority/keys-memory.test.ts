import { createPublicKey, verify } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { createMemoryKeyStore } from '../../../server/authority/keys-memory.ts';
import type { KeyStore } from '../../../server/authority/keys.ts';

const data = Buffer.from('what is signed');

function publicKeyOf(spki: Uint8Array) {
  return createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
}

describe('createMemoryKeyStore', () => {
  it.each([
    ['ec-p256', 'sha256'],
    ['ec-p384', 'sha384'],
    ['rsa-2048', 'sha256'],
    ['rsa-4096', 'sha256'],
  ] as const)('signs in both forms with %s and %s', async (type, hash) => {
    const keys = createMemoryKeyStore();
    const { publicKey } = await keys.generate('k', type);
    const key = publicKeyOf(publicKey);
    const forms = { der: 'der', jose: 'ieee-p1363' } as const;
    for (const [form, dsaEncoding] of Object.entries(forms)) {
      const signature = await keys.sign('k', data, form as 'der' | 'jose');
      expect(verify(hash, data, { key, dsaEncoding }, signature)).toBe(true);
    }
  });

  it('RFC 7518 3.4: pads the numbers of a JOSE signature, of which one in 128 has a short one', async () => {
    const keys = createMemoryKeyStore();
    const { publicKey } = await keys.generate('k', 'ec-p256');
    const key = publicKeyOf(publicKey);
    const signatures = await Promise.all(Array.from({ length: 1500 }, () => keys.sign('k', data, 'jose')));
    const short = signatures.filter((signature) => signature[0] === 0 || signature[32] === 0);
    expect(short.length).toBeGreaterThan(0);
    expect(signatures.every(({ length }) => length === 64)).toBe(true);
    expect(short.every((signature) => verify('sha256', data, { key, dsaEncoding: 'ieee-p1363' }, signature))).toBe(true);
  });

  it('keeps a name for one key, also when two ask at once', async () => {
    const keys = createMemoryKeyStore();
    const [first, second] = await Promise.allSettled([keys.generate('k', 'ec-p256'), keys.generate('k', 'ec-p256')]);
    expect(first.status).toBe('fulfilled');
    expect(second).toMatchObject({ status: 'rejected', reason: { kind: 'exists', reason: 'keys.exists' } });
    expect(await keys.list()).toHaveLength(1);
  });

  it('forgets', async () => {
    const keys: KeyStore = createMemoryKeyStore();
    await keys.generate('k', 'ec-p256');
    await keys.forget('k');
    await keys.forget('k');
    expect(await keys.list()).toEqual([]);
    await expect(keys.sign('k', data, 'der')).rejects.toMatchObject({ kind: 'missing', reason: 'keys.missing' });
  });
});
