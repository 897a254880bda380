/**
 * The follow stream's messages as steps, and the calls by which a server without one is polled. When they are made is
 * `follow.ts` and `poll.ts`.
 */
import { bundleFromMessage } from '../../proto/convert/bundle.ts';
import { entryFromMessage } from '../../proto/convert/entry.ts';
import { instantFromSeconds, integerFromText, namedValue } from '../../proto/convert/scalar.ts';
import type { SyncAuthorizedEntriesResponse__Output } from '../../proto/gen/spire/api/server/entry/v1/SyncAuthorizedEntriesResponse.ts';
import type { Authority__Output } from '../../proto/gen/steeple/node/v1/Authority.ts';
import type { Change__Output } from '../../proto/gen/steeple/node/v1/Change.ts';
import type { Changes__Output } from '../../proto/gen/steeple/node/v1/Changes.ts';
import type { Command__Output } from '../../proto/gen/steeple/node/v1/Command.ts';
import type { FollowRequest } from '../../proto/gen/steeple/node/v1/FollowRequest.ts';
import type { FollowResponse__Output } from '../../proto/gen/steeple/node/v1/FollowResponse.ts';
import type { Position__Output } from '../../proto/gen/steeple/node/v1/Position.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import type { RpcClient } from '../../runtime/rpc/call.ts';
import { getBundle } from '../node/messages.ts';
import { agentServices } from '../node/wire.ts';
import type { FollowCommand, FollowHello, FollowStep, FollowStream } from './follow.ts';
import type { AuthorityNotice, AuthorityState, HoldingsStep, Position } from './holdings.ts';
import type { PollSource } from './poll.ts';

/** Opens the follow stream over the client's connection of the moment. */
export function openFollow(client: RpcClient, agentVersion: string, hello: FollowHello, signal: AbortSignal): FollowStream {
  const talk = client.converse(agentServices()['steeple.node.v1.Node'].Follow, { signal });
  // What goes wrong with a stream is told to whoever reads it.
  const send = (request: FollowRequest): void => void talk.send(request).catch(() => undefined);
  send({
    hello: {
      min_version: hello.minVersion,
      max_version: hello.maxVersion,
      agent_version: agentVersion,
      ...(hello.position === undefined ? {} : { position: hello.position }),
    },
  });
  return {
    steps: stepsOf(talk.responses),
    confirm: (position) => send({ confirm: { position } }),
  };
}

async function* stepsOf(responses: AsyncIterable<FollowResponse__Output>): AsyncGenerator<FollowStep> {
  for await (const response of responses) yield followStep(response);
}

/** @throws invalid `follow.message`, `proto.*` */
export function followStep(response: FollowResponse__Output): FollowStep {
  switch (response.step) {
    case 'welcome': {
      const { version, server_time_ms, snapshot } = present(response.welcome);
      return { what: 'welcome', version, serverTimeAt: integerFromText(server_time_ms, 'server_time_ms'), snapshot };
    }
    case 'snapshot': {
      const page = present(response.snapshot);
      return {
        what: 'snapshot',
        entries: page.entries.map(entryFromMessage),
        bundles: page.bundles.map(bundleFromMessage),
        authorities: page.authorities.map(authorityFromMessage),
        last: page.last === null ? undefined : positionFromMessage(page.last),
      };
    }
    case 'changes':
      return changesStep(present(response.changes));
    case 'heartbeat': {
      const { server_time_ms, position } = present(response.heartbeat);
      return {
        what: 'heartbeat',
        serverTimeAt: integerFromText(server_time_ms, 'server_time_ms'),
        position: positionFromMessage(position),
      };
    }
    default:
      // Versions are agreed on at the welcome, so there is nothing a newer server could mean by it.
      throw new SpiffeError('invalid', 'follow.message', 'the server sent a step of a kind that is not known');
  }
}

function changesStep(message: Changes__Output): FollowStep {
  const steps: HoldingsStep[] = [];
  const commands: FollowCommand[] = [];
  for (const change of message.changes) {
    if (change.what === 'command') commands.push(commandFromMessage(present(change.command)));
    else steps.push(stepFromChange(change));
  }
  return {
    what: 'changes',
    position: positionFromMessage(message.position),
    committedAt: integerFromText(message.committed_at_ms, 'committed_at_ms'),
    steps,
    commands,
  };
}

function stepFromChange(change: Change__Output): HoldingsStep {
  switch (change.what) {
    case 'entry':
      return { what: 'entry', entry: entryFromMessage(change.entry) };
    case 'removed_entry_id':
      return { what: 'entry-removed', id: change.removed_entry_id ?? '' };
    case 'bundle':
      return { what: 'bundle', bundle: bundleFromMessage(change.bundle) };
    case 'removed_bundle':
      return { what: 'bundle-removed', trustDomain: parseTrustDomain(change.removed_bundle ?? '') };
    case 'authority':
      return { what: 'authority', authority: authorityFromMessage(present(change.authority)) };
    case 'held':
      return { what: 'held', ids: present(change.held).ids };
    default:
      // A change that is not understood cannot be skipped: what is held would no longer be what the position says.
      throw new SpiffeError('invalid', 'follow.message', 'the server sent a change of a kind that is not known');
  }
}

const authorityKinds = { KIND_X509: 'x509', KIND_JWT: 'jwt' } as const;
const authorityStates: Readonly<Record<string, AuthorityState>> = {
  STATE_PREPARED: 'prepared',
  STATE_ACTIVE: 'active',
  STATE_OLD: 'old',
  STATE_TAINTED: 'tainted',
  STATE_REVOKED: 'revoked',
};

function authorityFromMessage(message: Authority__Output): AuthorityNotice {
  return Object.freeze({
    kind: namedValue(authorityKinds, message.kind as keyof typeof authorityKinds, 'kind'),
    id: message.id,
    state: namedValue(authorityStates, message.state, 'state'),
    expiresAt: integerFromText(message.expires_at_ms, 'expires_at_ms'),
  });
}

const commandActions = { ACTION_RENEW: 'renew', ACTION_BANNED: 'banned', ACTION_EVICTED: 'evicted' } as const;

function commandFromMessage(message: Command__Output): FollowCommand {
  return { action: namedValue(commandActions, message.action as keyof typeof commandActions, 'action'), reason: message.reason };
}

export function positionFromMessage(message: Position__Output | null): Position {
  if (message === null || message.epoch === '') throw new SpiffeError('invalid', 'follow.message', 'a position is missing');
  return Object.freeze({ epoch: message.epoch, revision: integerFromText(message.revision, 'revision') });
}

function present<T>(message: T | null | undefined): T {
  if (message === null || message === undefined) throw new SpiffeError('invalid', 'follow.message', 'a part of the message is missing');
  return message;
}

/** Where the server is, when something that concerns this agent was committed after `position`. */
export async function askBehind(client: RpcClient, position: Position | undefined, signal: AbortSignal): Promise<Position | undefined> {
  const method = agentServices()['steeple.node.v1.Node'].Behind;
  const answer = await client.unary(method, position === undefined ? {} : { position }, { signal, deadlineMs: 1_000 });
  return answer.behind ? positionFromMessage(answer.position) : undefined;
}

const syncDeadlineMs = 30_000;

/** The calls of SPIRE's agents. Entries are asked for whole, so that names and life times are there as well. */
export function pollSource(client: RpcClient): PollSource {
  return {
    entries: (known, signal) => syncEntries(client, known, signal),
    bundle: (signal) => getBundle(client, signal),
    async federatedBundle(trustDomain, signal) {
      const method = agentServices()['spire.api.server.bundle.v1.Bundle'].GetFederatedBundle;
      try {
        return bundleFromMessage(await client.unary(method, { trust_domain: trustDomain }, { signal }));
      } catch (error) {
        if (isSpiffeError(error, 'missing')) return undefined;
        throw error;
      }
    },
  };
}

/**
 * One synchronisation: the whole list when it is short, else revisions first and then what is stale, page by page.
 * @throws what the call throws; invalid `poll.order` when the server mixes the two
 */
async function syncEntries(
  client: RpcClient,
  known: ReadonlyMap<string, RegistrationEntry>,
  signal: AbortSignal,
): Promise<readonly RegistrationEntry[]> {
  const talk = client.converse(agentServices()['spire.api.server.entry.v1.Entry'].SyncAuthorizedEntries, {
    signal,
    deadlineMs: syncDeadlineMs,
  });
  const { responses } = talk;
  const next = async (): Promise<SyncAuthorizedEntriesResponse__Output> => {
    const response = await responses.next();
    if (response.done === true) throw new SpiffeError('unavailable', 'poll.ended', 'the server ended synchronisation early');
    return response.value;
  };
  try {
    await talk.send({});
    let page = await next();
    if (page.entry_revisions.length === 0) return entriesOf(page);

    const pageSize = page.entry_revisions.length;
    const kept: RegistrationEntry[] = [];
    const stale: string[] = [];
    for (;;) {
      if (page.entries.length > 0) throw new SpiffeError('invalid', 'poll.order', 'entries came amid revisions');
      for (const { id, revision_number, created_at } of page.entry_revisions) {
        const entry = known.get(id);
        const same =
          entry !== undefined &&
          String(entry.revisionNumber) === revision_number &&
          (created_at === '0' || entry.createdAt === instantFromSeconds(created_at, 'created_at'));
        if (same) kept.push(entry);
        else if (id !== '') stale.push(id);
      }
      if (!page.more) break;
      page = await next();
    }
    stale.sort();
    for (let from = 0; from < stale.length; from += pageSize) {
      await talk.send({ ids: stale.slice(from, from + pageSize) });
      do {
        page = await next();
        if (page.entry_revisions.length > 0) throw new SpiffeError('invalid', 'poll.order', 'revisions came amid entries');
        kept.push(...entriesOf(page));
      } while (page.more);
    }
    talk.finish();
    return kept;
  } finally {
    await responses.return?.();
  }
}

/** An entry that cannot be used is left out, as SPIRE's agents do: one bad entry must not cost a node all others. */
function entriesOf(page: SyncAuthorizedEntriesResponse__Output): RegistrationEntry[] {
  return page.entries.flatMap((message) => {
    try {
      return [entryFromMessage(message)];
    } catch (error) {
      if (isSpiffeError(error, 'invalid')) return [];
      throw error;
    }
  });
}
