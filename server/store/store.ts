/**
 * The seam to whatever keeps the server's state: one method is one whole transaction, in which rows, numbered changes
 * and audit events are written together. What the rows mean is the business of registry, authority and audit; consumers
 * declare the two to four methods they use with `Pick`.
 *
 * Duties of an implementation: a returned promise means durable; revisions are numbered in the order of commits; the
 * listeners see every committed change, once, in that order, before the promise of its writer resolves; a rejected
 * promise means that nothing of the call took effect, unless it rejects with `unavailable` / `store.outcome-unknown`.
 * All methods throw unavailable `store.closed|busy|full` and internal `store.corrupt`.
 */
import type { Bundle, JwtAuthority, X509Authority } from '../../spiffe/bundle.ts';
import type { EntryDraft, RegistrationEntry } from '../../spiffe/entry.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { AuditEvent, RecordedEvent } from '../audit/event.ts';

/** Who does something, through which call, and when. */
export interface Scope {
  readonly actor: string;
  readonly call: string;
  readonly at: number;
}

/** A place in the order of commits. The epoch changes when a backup is restored. */
export interface Position {
  readonly epoch: string;
  readonly revision: number;
}

export interface AgentRecord {
  readonly id: SpiffeId;
  readonly attestationType: string;
  /** Decimal; `''` means banned. */
  readonly serial: string;
  readonly expiresAt: number;
  /** A renewed SVID that was not used yet; `''` when there is none. */
  readonly pendingSerial: string;
  readonly pendingExpiresAt: number;
  readonly selectors: readonly Selector[];
  readonly canReattest: boolean;
  readonly agentVersion: string;
  readonly attestedAt: number;
}

export type AuthorityKind = 'x509' | 'jwt' | 'wit';
/** Prepared and published are one state with a date: `publishedAt` is set when the bundle holds it. */
export type AuthorityState = 'prepared' | 'active' | 'old';
export type KeyType = 'ec-p256' | 'ec-p384' | 'rsa-2048' | 'rsa-4096';

export interface AuthorityRecord {
  readonly kind: AuthorityKind;
  /** Lower hex subject key id for X.509, key id for JWT and WIT. */
  readonly id: string;
  /** Which server process holds the key. */
  readonly owner: string;
  /** Name of the key in the key store. */
  readonly keyName: string;
  readonly keyType: KeyType;
  readonly state: AuthorityState;
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  /** DER, for X.509. */
  readonly certificate: Uint8Array | undefined;
  readonly createdAt: number;
  readonly publishedAt: number | undefined;
  /**
   * The revision by which the bundle holds it; agents that confirmed it have it. The store sets it: when `publishedAt`
   * is given without it, to the revision of this step's change of the bundle, else of the record's own change.
   */
  readonly publishedRevision: number | undefined;
  readonly activatedAt: number | undefined;
  readonly notBeforeAt: number;
  readonly expiresAt: number;
}

/** How the server at a bundle endpoint is known: by the machine's web authorities, or by its own SPIFFE ID. */
export type EndpointProfile = { readonly type: 'https_web' } | { readonly type: 'https_spiffe'; readonly endpointId: SpiffeId };

/** Whose bundle is fetched, from where, and how that endpoint is known; none follows from another [Federation 5.1]. */
export interface Relationship {
  readonly trustDomain: TrustDomain;
  readonly endpointUrl: string;
  readonly profile: EndpointProfile;
}

export interface RelationshipRecord extends Relationship {
  /** The order of creation. */
  readonly row: number;
  readonly createdAt: number;
  /** When a bundle last came from this endpoint; `undefined` before. */
  readonly refreshedAt: number | undefined;
}

/** What came of a fetched bundle: it is the newest now, nothing new, or of a relationship that is not so any more. */
export type RefreshOutcome =
  | { readonly status: 'changed' | 'unchanged'; readonly bundle: Bundle; readonly before: Bundle | undefined }
  | { readonly status: 'ended' };

/** What `kind` a change is of decides the rest; `undefined` payload means deleted. */
export type CommittedChange =
  | { readonly revision: number; readonly noun: 'entry'; readonly id: string; readonly entry: RegistrationEntry | undefined; readonly row: number }
  | { readonly revision: number; readonly noun: 'agent'; readonly id: SpiffeId; readonly agent: AgentRecord | undefined }
  | { readonly revision: number; readonly noun: 'bundle'; readonly id: TrustDomain; readonly bundle: Bundle | undefined }
  | { readonly revision: number; readonly noun: 'relationship'; readonly id: TrustDomain; readonly relationship: RelationshipRecord | undefined }
  | { readonly revision: number; readonly noun: 'authority'; readonly id: string; readonly authority: AuthorityRecord | undefined };

export interface CommittedBatch {
  /** Of the writing server's clock, epoch milliseconds, taken when the transaction was opened. */
  readonly committedAt: number;
  readonly changes: readonly CommittedChange[];
}

/** What changed since a revision, without payloads; `undefined` when that lies before what is kept. */
export interface ChangeReference {
  readonly revision: number;
  readonly noun: CommittedChange['noun'];
  readonly id: string;
  /** Deleted, or changed in a way that can alter what hangs below it (SPIFFE ID, parent ID, selectors of an alias). */
  readonly structural: boolean;
}

/** An entry with its place in the order of creation, which pages are cut by. */
export interface StoredEntry {
  readonly row: number;
  readonly entry: RegistrationEntry;
}

export type EntryOutcome =
  | { readonly status: 'done'; readonly entry: RegistrationEntry }
  /** The same SPIFFE ID, parent ID and selectors are registered already. */
  | { readonly status: 'similar'; readonly entry: RegistrationEntry }
  | { readonly status: 'refused'; readonly error: SpiffeError };

/** Fields to replace; absent ones stay. Checked before; rules across fields are checked again on the merged entry. */
export interface EntryUpdate {
  readonly id: string;
  readonly fields: Partial<Omit<RegistrationEntry, 'id' | 'createdAt' | 'revisionNumber'>>;
}

export type DeleteOutcome = { readonly status: 'done' | 'missing'; readonly id: string };

export interface JoinToken {
  /** Lower hex SHA-256 of the token. */
  readonly hash: string;
  readonly expiresAt: number;
  /** An entry for this ID under the agent is written when the token is spent. */
  readonly agentId: SpiffeId | undefined;
}

/** What is recorded before a signature; without a result it counts as issued. */
export interface CredentialIntent {
  /** Serial in lower hex for X.509; jti for a token that has one, as every WIT-SVID, else a random id. */
  readonly id: string;
  readonly kind: AuthorityKind;
  readonly spiffeId: SpiffeId;
  /** `''` for agents, the server itself and minted credentials. */
  readonly entryId: string;
  /** The agent that asked, or `''`. */
  readonly agentId: SpiffeId | '';
  readonly authorityId: string;
  readonly decisionId: string;
  /** Why it was granted. */
  readonly reason: string;
  readonly at: number;
  readonly notBeforeAt: number;
  readonly expiresAt: number;
  /** Of a JWT-SVID. */
  readonly audience: readonly string[];
  /** Lower hex SHA-256 of what is signed. */
  readonly digest: string;
  /** On whose behalf, as the agent reports it: `pid=…,uid=…,path=…`; `''` for prefetch. */
  readonly process: string;
}

export interface CredentialResult {
  readonly id: string;
  readonly outcome: 'issued' | 'failed';
}

export interface Credential extends CredentialIntent {
  readonly state: 'intent' | 'issued' | 'failed';
}

export interface Page<T> {
  readonly items: readonly T[];
  /** `''` when there is nothing more. */
  readonly nextToken: string;
}

export interface CredentialFilter {
  readonly kind?: AuthorityKind;
  readonly spiffeId?: string;
  readonly entryId?: string;
  readonly agentId?: string;
  readonly unexpiredAt?: number;
}

export interface AuditFilter {
  readonly type?: string;
  readonly actor?: string;
  readonly subject?: string;
  readonly outcome?: string;
  readonly since?: number;
  readonly until?: number;
  /** Newest first when true. */
  readonly newestFirst?: boolean;
}

/** The next state of authorities of one owner, and what that does to the own bundle, in one transaction. */
export interface AuthorityStep {
  readonly upserts: readonly AuthorityRecord[];
  /** Ids to forget. */
  readonly forgotten: readonly string[];
  readonly publish: {
    readonly x509: readonly X509Authority[];
    readonly jwt: readonly JwtAuthority[];
    readonly wit?: readonly JwtAuthority[];
  };
  readonly events: readonly AuditEvent[];
}

export interface AdmitAgent {
  readonly agent: AgentRecord;
  /** The token to spend, or `undefined` for other kinds of evidence. */
  readonly tokenHash: string | undefined;
  /** Refuse an agent that there is a record of. */
  readonly firstUseOnly?: boolean;
  readonly intent: CredentialIntent;
}

export type BundleWrite = 'create' | 'update' | 'set';
/** What happens to entries that federate with the trust domain. */
export type BundleDelete = 'restrict' | 'delete' | 'dissociate';

export interface Store {
  /** The newest committed position. */
  readonly position: Position;
  /** Listens to commits; the returned function stops it. */
  subscribe(listener: (batch: CommittedBatch) => void): () => void;

  loadEntries(onBatch: (entries: readonly StoredEntry[]) => void): Promise<Position>;
  loadAgents(): Promise<readonly AgentRecord[]>;
  loadBundles(): Promise<readonly Bundle[]>;
  loadAuthorities(): Promise<readonly AuthorityRecord[]>;
  changesSince(revision: number, limit: number): Promise<readonly ChangeReference[] | undefined>;

  createEntries(drafts: readonly EntryDraft[], scope: Scope): Promise<readonly EntryOutcome[]>;
  updateEntries(updates: readonly EntryUpdate[], scope: Scope): Promise<readonly EntryOutcome[]>;
  deleteEntries(ids: readonly string[], scope: Scope): Promise<readonly DeleteOutcome[]>;
  /** Deletes up to `limit` entries that expired; tells how many. */
  pruneEntries(limit: number, scope: Scope): Promise<number>;

  /** @throws exists `token.exists` */
  createJoinToken(token: JoinToken, scope: Scope): Promise<void>;
  /**
   * Spends the token if there is one, writes its alias entry, the agent's record and the intent of its SVID. An expired
   * token is spent all the same.
   * @throws invalid `token.unknown|expired`, denied `agent.banned|already-attested`
   */
  admitAgent(admission: AdmitAgent, scope: Scope): Promise<AgentRecord>;
  /** Records a renewed SVID as pending. @throws missing `agent.unknown`, denied `agent.banned` */
  renewAgent(id: SpiffeId, pending: { readonly serial: string; readonly expiresAt: number }, intent: CredentialIntent, scope: Scope): Promise<AgentRecord>;
  /** The pending serial becomes the current one, if it is still pending. */
  promoteAgent(id: SpiffeId, serial: string, scope: Scope): Promise<AgentRecord>;
  setAgentVersion(id: SpiffeId, version: string, scope: Scope): Promise<void>;
  /** @throws missing `agent.unknown` */
  banAgent(id: SpiffeId, scope: Scope): Promise<void>;
  /** Also deletes the alias entry that its join token wrote. @throws missing `agent.unknown` */
  deleteAgent(id: SpiffeId, scope: Scope): Promise<void>;
  /** Deletes agents whose SVID expired before the instant, banned ones excepted; tells which. */
  purgeAgents(expiredBefore: number, scope: Scope): Promise<readonly SpiffeId[]>;

  /** Adds to the own bundle what it lacks. */
  appendBundle(trustDomain: TrustDomain, x509: readonly X509Authority[], jwt: readonly JwtAuthority[], scope: Scope): Promise<Bundle>;
  /** @throws exists `bundle.exists` (create), missing `bundle.missing` (update) */
  writeBundle(bundle: Bundle, how: BundleWrite, scope: Scope): Promise<Bundle>;
  /** @throws missing `bundle.missing`, conflict `bundle.in-use` (restrict) */
  deleteBundle(trustDomain: TrustDomain, how: BundleDelete, scope: Scope): Promise<void>;
  /** Drops authorities that expired before the instant from the own bundle; tells how many. */
  pruneBundle(trustDomain: TrustDomain, expiredBefore: number, scope: Scope): Promise<number>;

  loadRelationships(): Promise<readonly RelationshipRecord[]>;
  /** With a bundle, that is set too. @throws exists `relationship.exists` */
  createRelationship(relationship: Relationship, bundle: Bundle | undefined, scope: Scope): Promise<RelationshipRecord>;
  /** Absent fields stay. @throws missing `relationship.missing` */
  updateRelationship(
    trustDomain: TrustDomain,
    fields: Partial<Pick<Relationship, 'endpointUrl' | 'profile'>>,
    bundle: Bundle | undefined,
    scope: Scope,
  ): Promise<RelationshipRecord>;
  /** The bundle stays. @throws missing `relationship.missing` */
  deleteRelationship(trustDomain: TrustDomain, scope: Scope): Promise<void>;
  /**
   * Takes a bundle that was fetched by the relationship, whole, in the place of the one that is stored.
   * @throws conflict `relationship.sequence-behind`
   */
  refreshBundle(relationship: Relationship, bundle: Bundle, scope: Scope): Promise<RefreshOutcome>;

  stepAuthorities(trustDomain: TrustDomain, step: AuthorityStep, scope: Scope): Promise<readonly AuthorityRecord[]>;

  /** All or none; durable when it resolves. */
  recordIntents(intents: readonly CredentialIntent[]): Promise<void>;
  /** Rides in the next commit; loss leaves the intent, which counts as issued. */
  recordResults(results: readonly CredentialResult[]): void;
  getCredential(id: string): Promise<Credential | undefined>;
  /** Newest first. */
  listCredentials(filter: CredentialFilter, pageSize: number, pageToken: string): Promise<Page<Credential>>;

  recordAudit(events: readonly AuditEvent[]): Promise<void>;
  /** Events of one spool, numbered from 1 by the agent: what is recorded already is skipped. Tells up to which number all are recorded. */
  recordSpool(agentId: SpiffeId, spool: string, events: readonly { readonly sequence: number; readonly event: AuditEvent }[]): Promise<number>;
  searchAudit(filter: AuditFilter, pageSize: number, pageToken: string): Promise<Page<RecordedEvent>>;
  /** Deletes at most `limit` rows of each kind and records that it did. */
  pruneRecords(before: { readonly credentialsExpired: number; readonly auditAt: number }, limit: number, scope: Scope): Promise<{ readonly credentials: number; readonly events: number }>;

  /** Waits for what is queued, then closes. */
  close(): Promise<void>;
}
