/**
 * Our service on the operators' socket: the server's state, the ledger, the audit record and the authorities. What
 * SPIRE's services offer operators already is not repeated here.
 */
import { namedValue } from '../../proto/convert/scalar.ts';
import type { AuditEvent as AuditEventMessage } from '../../proto/gen/steeple/operator/v1/AuditEvent.ts';
import type { Authority as AuthorityMessage } from '../../proto/gen/steeple/operator/v1/Authority.ts';
import type { Credential as CredentialMessage } from '../../proto/gen/steeple/operator/v1/Credential.ts';
import type { RelationshipState as StateMessage } from '../../proto/gen/steeple/operator/v1/RelationshipState.ts';
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { type SpiffeId, type TrustDomain, trustDomainFromText } from '../../spiffe/id.ts';
import type { RecordedEvent } from '../audit/event.ts';
import type { FederationCounts } from '../federation/observe.ts';
import type { Refresher } from '../federation/refresh.ts';
import type { Relationships } from '../federation/relationships.ts';
import type { AuditFilter, AuthorityKind, AuthorityRecord, Credential, CredentialFilter, RelationshipRecord, Scope, Store } from '../store/store.ts';
import { scopeOf } from './caller.ts';
import type { Handlers } from './handlers.ts';

const defaultPage = 100;
const maxPage = 1000;
/** How often a tail looks for what was recorded; the record itself is not delayed by it. */
const tailPauseMs = 250;

export interface OperatorStatus {
  readonly version: string;
  readonly trustDomain: string;
  readonly startedAt: number;
  readonly entries: number;
  readonly agents: number;
  readonly followingAgents: number;
  readonly unmetConditions: readonly string[];
  readonly federation: FederationCounts;
}

/** The authorities of this server; both acts throw as SPIRE's local authority service does. */
export interface Authorities {
  list(): readonly AuthorityRecord[];
  prepare(kind: AuthorityKind, scope: Scope): Promise<AuthorityRecord>;
  activate(kind: AuthorityKind, id: string, scope: Scope): Promise<AuthorityRecord>;
}

export interface OperatorDeps {
  readonly clock: Clock;
  readonly status: () => OperatorStatus;
  readonly store: Pick<Store, 'position' | 'getCredential' | 'listCredentials' | 'searchAudit'>;
  readonly authorities: Authorities;
  readonly federation: {
    readonly relationships: Pick<Relationships, 'get' | 'all'>;
    readonly state: Refresher['state'];
    readonly hasBundle: (trustDomain: TrustDomain) => boolean;
  };
  /** Following agents that have not confirmed a revision yet. */
  readonly unconfirmed: (revision: number) => readonly SpiffeId[];
}

export function createOperatorApi(deps: OperatorDeps): Handlers<'steeple.operator.v1.Operator'> {
  const { clock, store, authorities } = deps;

  const authorityMessage = (authority: AuthorityRecord): AuthorityMessage => ({
    kind: authority.kind,
    id: authority.id,
    state: authority.state,
    key_type: authority.keyType,
    created_at_ms: authority.createdAt,
    published_at_ms: authority.publishedAt ?? 0,
    activated_at_ms: authority.activatedAt ?? 0,
    expires_at_ms: authority.expiresAt,
    unconfirmed_agents:
      authority.state === 'prepared' && authority.publishedRevision !== undefined
        ? [...deps.unconfirmed(authority.publishedRevision)]
        : [],
  });

  return {
    async GetStatus() {
      const status = deps.status();
      return {
        version: status.version,
        trust_domain: status.trustDomain,
        epoch: store.position.epoch,
        revision: store.position.revision,
        started_at_ms: status.startedAt,
        entries: status.entries,
        agents: status.agents,
        following_agents: status.followingAgents,
        unmet_conditions: [...status.unmetConditions],
        relationships: status.federation.relationships,
        relationships_failing: status.federation.failing,
        relationships_pending: status.federation.pending,
      };
    },

    async ListCredentials(request) {
      const filter: CredentialFilter = {
        ...(request.kind !== '' && { kind: authorityKind(request.kind) }),
        ...(request.spiffe_id !== '' && { spiffeId: request.spiffe_id }),
        ...(request.entry_id !== '' && { entryId: request.entry_id }),
        ...(request.agent_id !== '' && { agentId: request.agent_id }),
        ...(request.unexpired && { unexpiredAt: clock.now() }),
      };
      const page = await store.listCredentials(filter, pageSize(request.page_size), request.page_token);
      return { credentials: page.items.map(credentialMessage), next_page_token: page.nextToken };
    },

    async GetCredential({ id }) {
      const credential = await store.getCredential(id.toLowerCase()) ?? (await store.getCredential(id));
      if (credential === undefined) throw new SpiffeError('missing', 'ledger.unknown', 'no such credential in the ledger');
      return credentialMessage(credential);
    },

    async SearchAudit(request) {
      const filter: AuditFilter = {
        newestFirst: true,
        ...(request.type !== '' && { type: request.type }),
        ...(request.actor !== '' && { actor: request.actor }),
        ...(request.subject !== '' && { subject: request.subject }),
        ...(request.outcome !== '' && { outcome: request.outcome }),
        ...(request.since_ms !== '0' && { since: Number(request.since_ms) }),
        ...(request.until_ms !== '0' && { until: Number(request.until_ms) }),
      };
      const page = await store.searchAudit(filter, pageSize(request.page_size), request.page_token);
      return { events: page.items.map(eventMessage), next_page_token: page.nextToken };
    },

    async *TailAudit({ last }, _caller, signal) {
      const shown = Math.min(Math.max(last, 0), maxPage);
      const newest = await store.searchAudit({ newestFirst: true }, Math.max(shown, 1), '');
      for (const event of newest.items.slice(0, shown).toReversed()) yield eventMessage(event);
      let token = String(newest.items[0]?.number ?? 0);
      while (!signal.aborted) {
        const page = await store.searchAudit({ newestFirst: false }, maxPage, token);
        for (const event of page.items) yield eventMessage(event);
        token = String(page.items.at(-1)?.number ?? token);
        if (page.items.length < maxPage) await clock.sleep(tailPauseMs, signal).catch(() => undefined);
      }
    },

    async ListAuthorities() {
      return { authorities: authorities.list().map(authorityMessage) };
    },

    async PrepareAuthority({ kind }, caller) {
      return authorityMessage(await authorities.prepare(authorityKind(kind), scopeOf(caller, clock.now())));
    },

    async ActivateAuthority({ kind, id }, caller) {
      return authorityMessage(await authorities.activate(authorityKind(kind), id, scopeOf(caller, clock.now())));
    },

    async ListRelationshipStates({ trust_domain }) {
      const { relationships } = deps.federation;
      const one = trust_domain === '' ? undefined : relationships.get(trustDomainFromText(trust_domain));
      const asked = trust_domain === '' ? relationships.all() : one === undefined ? [] : [one];
      return { states: asked.map((relationship) => stateMessage(relationship, deps.federation)) };
    },
  };
}

function stateMessage({ trustDomain, createdAt }: RelationshipRecord, { state, hasBundle }: OperatorDeps['federation']): StateMessage {
  const now = state(trustDomain);
  return {
    trust_domain: trustDomain,
    created_at_ms: createdAt,
    refreshed_at_ms: now?.refreshedAt ?? 0,
    attempted_at_ms: now?.attemptedAt ?? 0,
    next_at_ms: now?.nextAt ?? 0,
    failures: now?.failures ?? 0,
    reason: now?.reason ?? '',
    pending: !hasBundle(trustDomain),
  };
}

function authorityKind(text: string): AuthorityKind {
  return namedValue({ x509: 'x509', jwt: 'jwt', wit: 'wit' } as const, text, 'kind');
}

function pageSize(asked: number): number {
  return asked <= 0 ? defaultPage : Math.min(asked, maxPage);
}

function credentialMessage(credential: Credential): CredentialMessage {
  return {
    id: credential.id,
    kind: credential.kind,
    spiffe_id: credential.spiffeId,
    entry_id: credential.entryId,
    agent_id: credential.agentId,
    authority_id: credential.authorityId,
    decision_id: credential.decisionId,
    reason: credential.reason,
    state: credential.state,
    issued_at_ms: credential.at,
    not_before_ms: credential.notBeforeAt,
    expires_at_ms: credential.expiresAt,
    audience: [...credential.audience],
    process: credential.process,
  };
}

function eventMessage(event: RecordedEvent): AuditEventMessage {
  return {
    number: event.number,
    at_ms: event.at,
    type: event.type,
    actor: event.actor,
    call: event.call,
    outcome: event.outcome,
    reason: event.reason,
    subject: event.subject,
    detail: JSON.stringify(event.detail),
  };
}
