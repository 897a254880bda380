import { beforeEach, expect, it } from 'vitest';
import { askFirstAgainMs, firstSupported, type JwtRequest, type Signer, type X509Request } from '../../../agent/svids/signer.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { testEntry } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { ecPair } from '../../help/forge.ts';

/** Signs with its name, or fails with what it was told to. */
interface NamedSigner extends Signer {
  asked: number;
  failure: SpiffeError | undefined;
}

const unsupported = new SpiffeError('unsupported', 'rpc.unimplemented', 'no such service');
const entry = testEntry('/a', ['a:1']);
const pair = ecPair();
const request: X509Request = { entry, keys: { publicKey: pair.spki, privateKey: pair.privateKey }, process: undefined };
const jwt: JwtRequest = { entry, audience: ['db'], process: undefined };
const { signal } = new AbortController();

function named(name: string, largestBatch: number): NamedSigner {
  const signer: NamedSigner = {
    asked: 0,
    failure: undefined,
    largestBatch,
    async signX509(requests) {
      signer.asked += 1;
      if (signer.failure !== undefined) throw signer.failure;
      if (requests.length > largestBatch) throw new SpiffeError('invalid', 'signer.batch', 'more than was agreed on');
      return requests.map(() => ({ chain: [Buffer.from(name)] }));
    },
    async signWit(requests) {
      signer.asked += 1;
      if (signer.failure !== undefined) throw signer.failure;
      return requests.map(() => ({ token: name }));
    },
    async signJwt() {
      signer.asked += 1;
      if (signer.failure !== undefined) throw signer.failure;
      return { token: name, issuedAt: 0, expiresAt: 1 };
    },
  };
  return signer;
}

let clock: TestClock;
let first: NamedSigner;
let second: NamedSigner;
let signer: Signer;

beforeEach(() => {
  clock = createTestClock();
  first = named('first', 100);
  second = named('second', 500);
  signer = firstSupported(first, second, clock);
});

const sign = async (count = 1): Promise<string[]> => {
  const outcomes = await signer.signX509(Array.from({ length: count }, () => request), signal);
  return outcomes.map((outcome) => ('chain' in outcome ? Buffer.from(outcome.chain[0] ?? []).toString() : outcome.refused.reason));
};
const token = async (): Promise<string> => (await signer.signJwt(jwt, signal)).token;

it('asks the first as long as the server has its service', async () => {
  expect([await sign(), await token(), second.asked, signer.largestBatch]).toEqual([['first'], 'first', 0, 100]);
});

it('asks the second, for the same request, when the server does not', async () => {
  first.failure = unsupported;
  expect([await sign(), await token(), first.asked]).toEqual([['second'], 'second', 1]);
  // What the first could not have taken, the second can.
  expect(signer.largestBatch).toBe(500);
  expect(new Set(await sign(500))).toEqual(new Set(['second']));
});

it('asks the second for WIT-SVIDs when the first does not know them, and goes on asking the first for the others', async () => {
  const wits = async (): Promise<string[]> =>
    (await signer.signWit([request], signal)).map((outcome) => ('token' in outcome ? outcome.token : outcome.refused.reason));
  expect(await wits()).toEqual(['first']);
  first.failure = unsupported;
  expect(await wits()).toEqual(['second']);
  first.failure = undefined;
  expect([await sign(), signer.largestBatch]).toEqual([['first'], 100]);
});

it('leaves other failures to whoever asked, and asks the first the next time', async () => {
  first.failure = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
  await expect(sign()).rejects.toMatchObject({ reason: 'rpc.unreachable' });
  await expect(token()).rejects.toMatchObject({ reason: 'rpc.unreachable' });
  first.failure = undefined;
  expect([await token(), second.asked]).toEqual(['first', 0]);
});

it('asks the first again after five minutes, in case the server has become one of ours', async () => {
  first.failure = unsupported;
  await sign();
  first.failure = undefined;
  await clock.advance(askFirstAgainMs - 1);
  expect(await token()).toBe('second');
  await clock.advance(1);
  // Batches formed from now on are such as either takes.
  expect([askFirstAgainMs, signer.largestBatch]).toEqual([300_000, 100]);
  expect([await sign(), await token()]).toEqual([['first'], 'first']);
});

it('does not try the first with a batch that was formed for the second', async () => {
  first.failure = unsupported;
  await sign();
  first.failure = undefined;
  await clock.advance(askFirstAgainMs);
  expect(new Set(await sign(500))).toEqual(new Set(['second']));
  expect(await sign()).toEqual(['first']);
});

it('asks the second for another five minutes when the server is still not one of ours', async () => {
  first.failure = unsupported;
  await sign();
  await clock.advance(askFirstAgainMs);
  expect([await token(), first.asked]).toEqual(['second', 2]);
  expect([await token(), first.asked, signer.largestBatch]).toEqual(['second', 2, 500]);
});
