import { sign } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { JwtRequest, JwtSigned } from '../../../agent/svids/signer.ts';
import { createTokens, type TokenRequest, type Tokens } from '../../../agent/svids/tokens.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { assembleJwtSvid, draftJwtSvid } from '../../../spiffe/jwt-svid.ts';
import { testEntry } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { ecPair } from '../../help/forge.ts';

const key = ecPair();
const lifeMs = 300_000;

let clock: TestClock;
let tokens: Tokens;
let signed: string[][];
let failing: SpiffeError | undefined;
let held: Map<string, RegistrationEntry>;
let tainted: Set<string>;
let stop: AbortController;
let over: Promise<unknown>;

async function signJwt({ entry, audience }: JwtRequest): Promise<JwtSigned> {
  signed.push([...audience]);
  if (failing !== undefined) throw failing;
  const issuedAt = Math.floor(clock.now() / 1000) * 1000;
  const expiresAt = issuedAt + lifeMs;
  const jti = entry.jwtSvidIncludeJti ? String(signed.length) : undefined;
  const draft = draftJwtSvid({ spiffeId: entry.spiffeId, audience, issuedAt, expiresAt, keyId: 'k1', algorithm: 'ES256', jti });
  return { token: assembleJwtSvid(draft, sign('sha256', Buffer.from(draft), { key: key.privateKey, dsaEncoding: 'ieee-p1363' })), issuedAt, expiresAt };
}

function asked(entry: RegistrationEntry, ...audience: readonly string[]): TokenRequest {
  held.set(entry.id, entry);
  return { entry, audience, process: undefined };
}

const fetch = async (request: TokenRequest): Promise<string> => (await tokens.fetch(request, stop.signal)).token;

beforeEach(() => {
  clock = createTestClock();
  signed = [];
  failing = undefined;
  held = new Map();
  tainted = new Set();
  tokens = createTokens({
    clock,
    random: () => 0.5,
    signer: { signJwt },
    entry: (id) => held.get(id),
    tainted: () => tainted,
    limit: 3,
    onOutcome: () => undefined,
    onChange: () => undefined,
  });
  stop = new AbortController();
  over = tokens.run(stop.signal).catch((error: unknown) => error);
});

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  await over;
});

describe('a token', () => {
  it('is signed once for an audience, in whatever order and however often it is named', async () => {
    const entry = testEntry('/a', ['a:1']);
    const first = await fetch(asked(entry, 'db', 'mail'));
    expect(await fetch(asked(entry, 'mail', 'db', 'db'))).toBe(first);
    expect(await fetch(asked(entry, 'db'))).not.toBe(first);
    expect(await fetch(asked(testEntry('/a', ['a:1']), 'db', 'mail'))).not.toBe(first);
    expect(signed).toEqual([['db', 'mail'], ['db'], ['db', 'mail']]);
  });

  it('is signed once for many who ask at the same time', async () => {
    const entry = testEntry('/a', ['a:1']);
    const all = await Promise.all(Array.from({ length: 20 }, () => fetch(asked(entry, 'db'))));
    expect(new Set(all).size).toBe(1);
    expect(signed.length).toBe(1);
  });

  it('with an id is for one use', async () => {
    const entry = testEntry('/a', ['a:1'], { jwtSvidIncludeJti: true });
    expect(await fetch(asked(entry, 'db'))).not.toBe(await fetch(asked(entry, 'db')));
    expect(tokens.size).toBe(0);
  });

  it('that is used is refreshed ahead, at half of its life', async () => {
    const entry = testEntry('/a', ['a:1']);
    const first = await fetch(asked(entry, 'db'));
    await clock.advance(lifeMs / 2 - 2_000);
    expect(signed.length).toBe(1);
    await clock.advance(4_000);
    expect(signed.length).toBe(2);
    expect(await fetch(asked(entry, 'db'))).not.toBe(first);
    expect(signed.length).toBe(2);
  });

  it('that nobody asks for any more is let go', async () => {
    await fetch(asked(testEntry('/a', ['a:1']), 'db'));
    await clock.advance(lifeMs * 3);
    // Signed, refreshed once because it had been used, then forgotten.
    expect(signed.length).toBe(2);
    expect(tokens.size).toBe(0);
  });

  it('is served with the server away until it ends', async () => {
    const entry = testEntry('/a', ['a:1']);
    const first = await fetch(asked(entry, 'db'));
    failing = new SpiffeError('unavailable', 'rpc.unreachable', 'the server is away');
    await clock.advance(lifeMs - 2_000);
    expect(await fetch(asked(entry, 'db'))).toBe(first);
    await clock.advance(2_000);
    await expect(fetch(asked(entry, 'db'))).rejects.toMatchObject({ kind: 'unavailable', reason: 'rpc.unreachable' });
  });

  it.each([
    ['of a changed entry', (entry: RegistrationEntry) => asked({ ...entry, revisionNumber: 1 }, 'db')],
    ['of a tainted key', (entry: RegistrationEntry) => (tainted.add('k1'), asked(entry, 'db'))],
  ])('%s is replaced', async (_name, change) => {
    const entry = testEntry('/a', ['a:1']);
    await fetch(asked(entry, 'db'));
    await fetch(change(entry));
    expect(signed.length).toBe(2);
  });

  it('used longest ago goes when there are too many', async () => {
    const entry = testEntry('/a', ['a:1']);
    for (const audience of ['1', '2', '3']) await fetch(asked(entry, audience));
    await fetch(asked(entry, '1'));
    await fetch(asked(entry, '4'));
    expect(tokens.size).toBe(3);
    await fetch(asked(entry, '1'));
    expect(signed.length).toBe(4);
    await fetch(asked(entry, '2'));
    expect(signed.length).toBe(5);
  });

  it('for another name or audience than asked for is not handed on', async () => {
    const entry = testEntry('/a', ['a:1']);
    const wrong = createTokens({
      clock,
      random: () => 0.5,
      signer: { signJwt: (request) => signJwt({ ...request, entry: testEntry('/b', []) }) },
      entry: (id) => held.get(id),
      tainted: () => tainted,
      limit: 3,
      onOutcome: () => undefined,
      onChange: () => undefined,
    });
    await expect(wrong.fetch(asked(entry, 'db'), stop.signal)).rejects.toMatchObject({ reason: 'svid.received.id' });
  });
});
