import { describe, expect, it } from 'vitest';
import { generateSealingKey, seal, sealingKey, unseal } from '../../runtime/seal.ts';
import type { SealingSecret } from '../../runtime/seal.ts';

const content = Buffer.from('the agent key');
const byKey: SealingSecret = { type: 'key', key: generateSealingKey() };
const byPassphrase: SealingSecret = { type: 'passphrase', passphrase: 'correct horse' };

describe('sealed containers', () => {
  it.each([byKey, byPassphrase])('open again with the same secret ($type)', async (secret) => {
    const container = await seal(content, secret, 'agent-cache');
    expect(container.includes(content)).toBe(false);
    expect(await unseal(container, secret, 'agent-cache')).toEqual(content);
    expect(await unseal(await seal(new Uint8Array(), secret, 'p'), secret, 'p')).toEqual(Buffer.alloc(0));
  });

  it('never look the same twice', async () => {
    expect(await seal(content, byKey, 'p')).not.toEqual(await seal(content, byKey, 'p'));
  });

  it('do not open with another secret, another kind, or for another purpose', async () => {
    const container = await seal(content, byKey, 'keys');
    const other: SealingSecret = { type: 'key', key: sealingKey(Buffer.alloc(32, 1)) };
    await expect(unseal(container, other, 'keys')).rejects.toMatchObject({ kind: 'denied', reason: 'seal.broken' });
    await expect(unseal(container, byKey, 'cache')).rejects.toMatchObject({ reason: 'seal.broken' });
    await expect(unseal(container, byPassphrase, 'keys')).rejects.toMatchObject({ reason: 'seal.secret' });
    const words = await seal(content, byPassphrase, 'keys');
    const wrong: SealingSecret = { type: 'passphrase', passphrase: 'wrong' };
    await expect(unseal(words, wrong, 'keys')).rejects.toMatchObject({ reason: 'seal.broken' });
  });

  it('notice a change of any byte and any truncation', async () => {
    const container = await seal(content, byKey, 'p');
    for (let i = 0; i < container.length; i += 1) {
      const changed = Buffer.from(container);
      changed[i] = (changed[i] ?? 0) ^ 1;
      await expect(unseal(changed, byKey, 'p'), `byte ${i}`).rejects.toMatchObject({ name: 'SpiffeError' });
      await expect(unseal(container.subarray(0, i), byKey, 'p')).rejects.toMatchObject({ name: 'SpiffeError' });
    }
  });

  it('name a newer version and refuse an absurd derivation cost', async () => {
    const newer = await seal(content, byKey, 'p');
    newer[4] = 2;
    await expect(unseal(newer, byKey, 'p')).rejects.toMatchObject({ kind: 'unsupported', reason: 'seal.version' });
    const costly = await seal(content, byPassphrase, 'p');
    costly[6] = 40;
    await expect(unseal(costly, byPassphrase, 'p')).rejects.toMatchObject({ reason: 'seal.format' });
  });

  it('want a key of 32 bytes', () => {
    expect(() => sealingKey(Buffer.alloc(31))).toThrow(expect.objectContaining({ reason: 'seal.key.length' }));
  });
});
