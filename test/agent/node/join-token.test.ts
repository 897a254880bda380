import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { joinTokenEvidence } from '../../../agent/node/join-token.ts';

it('shows the token as it is, and once', async () => {
  const source = joinTokenEvidence({ token: 'abc-123' });
  expect([source.type, source.repeatable]).toEqual(['join_token', false]);
  const evidence = await source.produce();
  expect(Buffer.from(evidence.payload).toString()).toBe('abc-123');
  await expect(evidence.answer(new Uint8Array())).rejects.toMatchObject({ kind: 'denied', reason: 'evidence.challenge.unexpected' });
});

it('reads it from a file each time, without the line end', async () => {
  const directory = await mkdtemp(path.join(tmpdir(), 'steeple-token-'));
  try {
    const tokenFile = path.join(directory, 'token');
    const source = joinTokenEvidence({ tokenFile });
    await expect(source.produce()).rejects.toMatchObject({ reason: 'evidence.join-token.unreadable' });
    await writeFile(tokenFile, 'from-a-file\n');
    expect(Buffer.from((await source.produce()).payload).toString()).toBe('from-a-file');
  } finally {
    await rm(directory, { recursive: true });
  }
});

it.each([' ', 'a b', 'a\nb', 'ü', 'x'.repeat(1025)])('refuses %j, and never repeats it', async (token) => {
  const error: unknown = await joinTokenEvidence({ token }).produce().catch((caught: unknown) => caught);
  expect(error).toMatchObject({ kind: 'invalid', reason: 'evidence.join-token.form' });
  if (token.trim() !== '') expect(String(error)).not.toContain(token);
});

it('says that there is none', async () => {
  await expect(joinTokenEvidence({ token: '' }).produce()).rejects.toMatchObject({ kind: 'invalid', reason: 'evidence.join-token.none' });
});
