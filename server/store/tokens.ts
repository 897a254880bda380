/**
 * The SQL of join tokens: known by their hash alone, deleted when spent.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import type { AuditEvent } from '../audit/event.ts';
import { eventOf, recordEvents } from './audit.ts';
import type { Transaction } from './session.ts';
import type { JoinToken, Scope } from './store.ts';

/** @throws exists `token.exists` */
export async function createJoinToken(transaction: Transaction, token: JoinToken, scope: Scope): Promise<void> {
  const { session } = transaction;
  const known = await session.first(session.db.selectFrom('join_token').select('hash').where('hash', '=', token.hash));
  if (known !== undefined) throw new SpiffeError('exists', 'token.exists', 'join token exists already');
  await session.run(
    session.db
      .insertInto('join_token')
      .values({ hash: token.hash, expires_at: token.expiresAt, agent_id: token.agentId ?? null }),
  );
  await recordEvents(session, [eventOf(scope, 'token.created', token.hash, tokenDetail(token))]);
}

/**
 * Takes the token out, expired or not; of several calls one gets it.
 * @throws invalid `token.unknown`
 */
export async function takeToken(transaction: Transaction, hash: string): Promise<JoinToken> {
  const { session } = transaction;
  const row = await session.first(session.db.deleteFrom('join_token').where('hash', '=', hash).returningAll());
  if (row === undefined) {
    throw new SpiffeError('invalid', 'token.unknown', 'join token does not exist or has already been used');
  }
  return { hash: row.hash, expiresAt: row.expires_at, agentId: (row.agent_id ?? undefined) as SpiffeId | undefined };
}

/** Deletes at most `limit` tokens that expired unused. */
export async function pruneTokens(transaction: Transaction, limit: number, scope: Scope): Promise<void> {
  const { session } = transaction;
  const expired = session.db.selectFrom('join_token').select('hash').where('expires_at', '<=', scope.at);
  const rows = await session.all(
    session.db.deleteFrom('join_token').where('hash', 'in', expired.orderBy('expires_at').limit(limit)).returningAll(),
  );
  const events: AuditEvent[] = rows.map((row) =>
    eventOf(scope, 'token.expired', row.hash, { expiresAt: row.expires_at, agentId: row.agent_id ?? '' }),
  );
  await recordEvents(session, events);
}

export function tokenDetail(token: JoinToken): { readonly expiresAt: number; readonly agentId: string } {
  return { expiresAt: token.expiresAt, agentId: token.agentId ?? '' };
}
