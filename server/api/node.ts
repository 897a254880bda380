/**
 * Our node service: what our own agents follow, have signed and hand over. The stream's order and resumption are
 * `registry/feed.ts`; an agent's words about workloads become events of its own node, and nothing else.
 */
import { bundleToMessage } from '../../proto/convert/bundle.ts';
import { entryToMessage } from '../../proto/convert/entry.ts';
import { integerFromText } from '../../proto/convert/scalar.ts';
import type { Authority as AuthorityMessage } from '../../proto/gen/steeple/node/v1/Authority.ts';
import type { Change as ChangeMessage } from '../../proto/gen/steeple/node/v1/Change.ts';
import type { FollowRequest__Output } from '../../proto/gen/steeple/node/v1/FollowRequest.ts';
import type { FollowResponse } from '../../proto/gen/steeple/node/v1/FollowResponse.ts';
import type { JwtResult } from '../../proto/gen/steeple/node/v1/JwtResult.ts';
import type { Position__Output } from '../../proto/gen/steeple/node/v1/Position.ts';
import type { Process__Output } from '../../proto/gen/steeple/node/v1/Process.ts';
import type { Refusal } from '../../proto/gen/steeple/node/v1/Refusal.ts';
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import type { Issuer } from '../authority/issue.ts';
import type { IssuedJwtSvid, Outcome } from '../authority/sign.ts';
import type { AuthorityNotice } from '../registry/authorities.ts';
import type { CommandAction, FeedChange, FeedItem } from '../registry/feed-items.ts';
import type { Position, Store } from '../store/store.ts';
import { agentOf, type Caller, scopeOf } from './caller.ts';
import type { Handlers } from './handlers.ts';
import { eventFromMessage, inventoryEvent } from './witness.ts';

/** Version 1 always takes a snapshot, version 2 resumes. */
export const followVersions = { min: 1, max: 2 } as const;
const maxEvents = 5000;
const maxBatch = 1000;

/** One live stream for each agent; a newer one ends the older. */
export interface Following {
  follow(agentId: SpiffeId, from: Position | undefined, version: number, signal: AbortSignal): AsyncIterable<FeedItem>;
  /** Where the agent is to be, when something that concerns it was committed after the position. */
  behind(agentId: SpiffeId, position: Position | undefined): Position | undefined;
  confirm(agentId: SpiffeId, position: Position): void;
}

export interface NodeDeps {
  readonly clock: Clock;
  readonly feed: Following;
  readonly issuer: Pick<Issuer, 'issueX509' | 'issueJwt' | 'issueWit'>;
  readonly store: Pick<Store, 'position' | 'recordSpool' | 'recordAudit' | 'setAgentVersion'>;
}

export function createNodeApi(deps: NodeDeps): Handlers<'steeple.node.v1.Node'> {
  const { clock, feed, issuer, store } = deps;

  return {
    Follow(requests, caller, signal) {
      return follow(requests, caller, deps, signal);
    },

    async Behind({ position }, caller) {
      const ahead = feed.behind(agentOf(caller).id, positionFrom(position));
      return { behind: ahead !== undefined, position: ahead ?? store.position };
    },

    async Issue({ x509, jwt, wit }, caller) {
      if (x509.length + jwt.length + wit.length > maxBatch) {
        throw new SpiffeError('limited', 'node.issue.batch', `at most ${maxBatch} credentials are signed in one call`);
      }
      const asker = { agentId: agentOf(caller).id, scope: scopeOf(caller, clock.now()) };
      const [certificates, tokens, bound] = await Promise.all([
        issuer.issueX509(
          x509.map((item) => ({ entryId: item.entry_id, publicKey: item.public_key, process: processText(item.process) })),
          asker,
        ),
        issuer.issueJwt(
          jwt.map((item) => ({ entryId: item.entry_id, audience: item.audience, process: processText(item.process) })),
          asker,
        ),
        issuer.issueWit(
          wit.map((item) => ({
            entryId: item.entry_id,
            publicKey: Uint8Array.from(item.public_key),
            algorithm: item.algorithm,
            process: processText(item.process),
          })),
          asker,
        ),
      ]);
      return {
        x509: certificates.map((outcome) =>
          outcome.status === 'refused'
            ? { refusal: refusalMessage(outcome.error) }
            : { cert_chain: [...outcome.svid.certificates] as Buffer[], expires_at_ms: outcome.svid.expiresAt },
        ),
        jwt: tokens.map(tokenMessage),
        wit: bound.map(tokenMessage),
      };
    },

    async Report({ spool, events, inventory }, caller) {
      if (!/^[0-9a-zA-Z_-]{16,64}$/.test(spool)) throw new SpiffeError('invalid', 'node.report.spool', 'the spool has no usable name');
      if (events.length > maxEvents) throw new SpiffeError('limited', 'node.report.batch', `at most ${maxEvents} events are taken in one call`);
      const agent = agentOf(caller);
      if (inventory !== null) await store.recordAudit([inventoryEvent(inventory, agent.id, caller.call, clock.now())]);
      const witnessed = events.map((event) => ({
        sequence: integerFromText(event.sequence, 'sequence'),
        event: eventFromMessage(event, agent.id, caller.call),
      }));
      return { recorded_through: await store.recordSpool(agent.id, spool, witnessed) };
    },
  };
}

function tokenMessage(outcome: Outcome<IssuedJwtSvid>): JwtResult {
  if (outcome.status === 'refused') return { refusal: refusalMessage(outcome.error) };
  const { token, issuedAt, expiresAt } = outcome.svid;
  return { token, issued_at_ms: issuedAt, expires_at_ms: expiresAt };
}

/**
 * @throws invalid `node.follow.hello|version|position`
 */
async function* follow(
  requests: AsyncIterable<FollowRequest__Output>,
  caller: Caller,
  { clock, feed, store }: NodeDeps,
  callSignal: AbortSignal,
): AsyncIterable<FollowResponse> {
  const agent = agentOf(caller);
  const incoming = requests[Symbol.asyncIterator]();
  const first = await incoming.next();
  if (first.done === true || first.value.step !== 'hello' || !first.value.hello) {
    throw new SpiffeError('invalid', 'node.follow.hello', 'the stream begins with hello');
  }
  const { min_version, max_version, position, agent_version } = first.value.hello;
  const version = Math.min(max_version, followVersions.max);
  if (version < Math.max(min_version, followVersions.min)) {
    throw new SpiffeError('unsupported', 'node.follow.version', `follow versions ${followVersions.min} to ${followVersions.max} are spoken here`, {
      detail: { min: followVersions.min, max: followVersions.max },
    });
  }
  if (agent_version !== '' && agent_version.length <= 255 && agent_version !== agent.agentVersion) {
    await store.setAgentVersion(agent.id, agent_version, scopeOf(caller, clock.now()));
  }
  const ended = new AbortController();
  const signal = AbortSignal.any([callSignal, ended.signal]);
  const confirming = confirmAll(incoming, agent.id, feed).catch((error: unknown) => ended.abort(error));
  try {
    // Version 1 knows no resumption.
    const from = version === 1 ? undefined : positionFrom(position);
    for await (const item of feed.follow(agent.id, from, version, signal)) yield itemMessage(item);
    if (ended.signal.aborted) throw ended.signal.reason;
  } finally {
    ended.abort();
    void confirming;
  }
}

async function confirmAll(incoming: AsyncIterator<FollowRequest__Output>, agentId: SpiffeId, feed: Following): Promise<void> {
  for (let step = await incoming.next(); step.done !== true; step = await incoming.next()) {
    const position = step.value.step === 'confirm' ? positionFrom(step.value.confirm?.position) : undefined;
    if (position === undefined) throw new SpiffeError('invalid', 'node.follow.confirm', 'only confirmations follow hello');
    feed.confirm(agentId, position);
  }
}

function positionFrom(message: Position__Output | null | undefined): Position | undefined {
  if (!message) return undefined;
  return { epoch: message.epoch, revision: integerFromText(message.revision, 'revision') };
}

function itemMessage(item: FeedItem): FollowResponse {
  switch (item.what) {
    case 'welcome':
      return { welcome: { version: item.version, server_time_ms: item.serverTimeAt, snapshot: item.snapshot } };
    case 'snapshot':
      return {
        snapshot: {
          entries: item.entries.map((entry) => entryToMessage(entry)),
          bundles: item.bundles.map((bundle) => bundleToMessage(bundle)),
          authorities: item.authorities.map(authorityMessage),
          ...(item.last !== undefined && { last: item.last }),
        },
      };
    case 'changes':
      return { changes: { position: item.position, committed_at_ms: item.committedAt, changes: item.changes.map(changeMessage) } };
    case 'heartbeat':
      return { heartbeat: { server_time_ms: item.serverTimeAt, position: item.position } };
  }
}

function changeMessage(change: FeedChange): ChangeMessage {
  switch (change.what) {
    case 'entry':
      return { entry: entryToMessage(change.entry) };
    case 'entry-removed':
      return { removed_entry_id: change.id };
    case 'bundle':
      return { bundle: bundleToMessage(change.bundle) };
    case 'bundle-removed':
      return { removed_bundle: change.trustDomain };
    case 'authority':
      return { authority: authorityMessage(change.authority) };
    case 'command':
      return { command: { action: actions[change.action], reason: change.reason } };
    case 'held':
      return { held: { ids: [...change.ids] } };
  }
}

const actions: Readonly<Record<CommandAction, 'ACTION_RENEW' | 'ACTION_BANNED' | 'ACTION_EVICTED'>> = {
  renew: 'ACTION_RENEW',
  banned: 'ACTION_BANNED',
  evicted: 'ACTION_EVICTED',
};

const kinds = { x509: 'KIND_X509', jwt: 'KIND_JWT' } as const;
const states = { prepared: 'STATE_PREPARED', active: 'STATE_ACTIVE', old: 'STATE_OLD' } as const;

function authorityMessage(notice: AuthorityNotice): AuthorityMessage {
  return { kind: kinds[notice.kind], id: notice.id, state: states[notice.state], expires_at_ms: notice.expiresAt };
}

function refusalMessage(error: SpiffeError): Refusal {
  return { kind: error.kind, reason: error.reason, message: error.message };
}

/** As the ledger keeps it: what the agent says of the asking process, bounded and in one line. */
function processText(process: Process__Output | null): string {
  if (process === null) return '';
  const path = process.path.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 512);
  return `pid=${process.pid},start=${process.start_time},uid=${process.uid},gid=${process.gid},path=${path}`;
}
