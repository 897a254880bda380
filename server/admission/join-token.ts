/**
 * Evidence: a one-time token, of which the store knows nothing but the hash. Spending it is left to the transaction that
 * records the agent, so that of any number of attempts at once one succeeds.
 */
import { createHash, randomBytes } from 'node:crypto';
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { composeSpiffeId, type SpiffeId } from '../../spiffe/id.ts';
import type { Scope, Store } from '../store/store.ts';
import type { Verifier } from './verifier.ts';

/** A token becomes the last segment of an ID, and all of it has to fit. */
const tokenForm = /^[A-Za-z0-9._-]{1,255}$/;
const leastChosen = 16;
const randomOctets = 16;

export const joinTokenVerifier: Verifier = {
  type: 'join_token',
  verify(payload, _challenge, { trustDomain }) {
    // Refused in the words of an unknown token: none that was ever made looks like that.
    const token = readToken(payload);
    if (token === undefined) return Promise.reject(unknownToken());
    // The store takes the ID only with a token whose hash it knows: its text is then the one that was made.
    const agentId = composeSpiffeId(trustDomain, `/spire/agent/join_token/${token}`);
    return Promise.resolve({ agentId, selectors: [], canReattest: false, tokenHash: hashToken(token) });
  },
};

/** Lower hex SHA-256: what is looked up, so that no comparison of tokens takes a time that tells. */
export function hashToken(token: string): string {
  return createHash('sha256').update(token, 'utf8').digest('hex');
}

export function unknownToken(): SpiffeError {
  return new SpiffeError('invalid', 'token.unknown', 'failed to attest: join token does not exist or has already been used');
}

export interface TokenRequest {
  readonly ttlSeconds: number;
  /** `''` draws 128 random bits. */
  readonly token: string;
  /** An entry for this ID is written under the agent that spends the token. */
  readonly agentId: SpiffeId | undefined;
}

export interface CreatedToken {
  /** A secret until it is spent: told once, to whoever asked. */
  readonly token: string;
  readonly expiresAt: number;
}

/** @throws invalid `token.ttl|characters|length`, exists `token.exists` */
export async function createToken(
  store: Pick<Store, 'createJoinToken'>,
  clock: Pick<Clock, 'now'>,
  asked: TokenRequest,
  scope: Scope,
): Promise<CreatedToken> {
  if (!Number.isSafeInteger(asked.ttlSeconds) || asked.ttlSeconds < 1) {
    throw new SpiffeError('invalid', 'token.ttl', 'ttl is required, you must provide one');
  }
  const token = asked.token === '' ? randomBytes(randomOctets).toString('hex') : checkChosen(asked.token);
  const expiresAt = clock.now() + asked.ttlSeconds * 1000;
  await store.createJoinToken({ hash: hashToken(token), expiresAt, agentId: asked.agentId }, scope);
  return { token, expiresAt };
}

function checkChosen(token: string): string {
  if (!tokenForm.test(token) || isDots(token)) {
    throw new SpiffeError(
      'invalid',
      'token.characters',
      'token characters are limited to at most 255 letters, numbers, dots, dashes, and underscores',
    );
  }
  if (token.length < leastChosen) {
    throw new SpiffeError('invalid', 'token.length', `a chosen token needs at least ${leastChosen} characters`);
  }
  return token;
}

/** Byte by byte, so that nothing that merely looks like a letter passes. */
function readToken(payload: Uint8Array): string | undefined {
  const token = Buffer.from(payload.buffer, payload.byteOffset, Math.min(payload.byteLength, 256)).toString('latin1');
  return tokenForm.test(token) && !isDots(token) ? token : undefined;
}

function isDots(token: string): boolean {
  return token === '.' || token === '..';
}
