import { describe, expect, it } from 'vitest';
import { createToken, hashToken } from '../../../server/admission/join-token.ts';
import type { JoinToken } from '../../../server/store/store.ts';
import { createTestClock } from '../../help/clock.ts';
import { idOf, scopeAt } from '../../help/store.ts';

const clock = createTestClock();
const scope = scopeAt(clock.now());

async function create(token: string, ttlSeconds = 60): Promise<{ token: string; stored: JoinToken[]; expiresAt: number }> {
  const stored: JoinToken[] = [];
  const store = { createJoinToken: async (added: JoinToken) => void stored.push(added) };
  const created = await createToken(store, clock, { ttlSeconds, token, agentId: idOf('/nodes') }, scope);
  return { ...created, stored };
}

describe('createToken', () => {
  it('draws 128 random bits, legal as a path segment, and stores their hash', async () => {
    const first = await create('');
    const second = await create('');
    expect(first.token).toMatch(/^[0-9a-f]{32}$/);
    expect(first.token).not.toBe(second.token);
    expect(first.expiresAt).toBe(clock.now() + 60_000);
    expect(first.stored).toEqual([{ hash: hashToken(first.token), expiresAt: first.expiresAt, agentId: idOf('/nodes') }]);
    expect(JSON.stringify(first.stored)).not.toContain(first.token);
  });

  it('takes a chosen one of 16 legal characters and more', async () => {
    for (const token of ['Abc-123_.Abc-123', 'a'.repeat(255)]) expect((await create(token)).token).toBe(token);
  });

  it.each([
    ['a'.repeat(15), 'token.length'],
    ['a'.repeat(256), 'token.characters'],
    ['sixteen/characters', 'token.characters'],
    ['sixteen characters', 'token.characters'],
    ['sixtеen-characters', 'token.characters'],
    ['..', 'token.characters'],
    ['sixteen-characters\n', 'token.characters'],
  ])('refuses %j', async (token, reason) => {
    await expect(create(token)).rejects.toMatchObject({ kind: 'invalid', reason });
  });

  it.each([0, -1, 0.5, Number.NaN])('needs a life: %s', async (ttlSeconds) => {
    await expect(create('', ttlSeconds)).rejects.toMatchObject({ kind: 'invalid', reason: 'token.ttl', message: 'ttl is required, you must provide one' });
  });
});
