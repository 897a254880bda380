/**
 * The part of the store that authorities and issuing use, in memory and without threads, for tests in which time jumps or
 * calls fail at a chosen moment. It keeps the rules of the seam: one call takes effect whole or not at all, and revisions
 * follow the order of calls.
 */
import type { AuditEvent } from '../../server/audit/event.ts';
import type { AuthorityRecord, CredentialIntent, CredentialResult, Store } from '../../server/store/store.ts';
import { appendAuthorities, emptyBundle, pruneBundle, type Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';

export type AuthorityStore = Pick<
  Store,
  'position' | 'loadAuthorities' | 'stepAuthorities' | 'pruneBundle' | 'recordIntents' | 'recordResults' | 'recordAudit'
>;

export interface MemoryStore extends AuthorityStore {
  readonly bundle: Bundle;
  readonly events: readonly AuditEvent[];
  /** What is durable, by id. */
  readonly intents: ReadonlyMap<string, CredentialIntent>;
  readonly results: ReadonlyMap<string, CredentialResult['outcome']>;
}

export function createMemoryStore(trustDomain: TrustDomain, epoch = 'epoch-1'): MemoryStore {
  let revision = 0;
  let bundle = emptyBundle(trustDomain);
  const authorities = new Map<string, AuthorityRecord>();
  const events: AuditEvent[] = [];
  const intents = new Map<string, CredentialIntent>();
  const results = new Map<string, CredentialResult['outcome']>();

  return {
    get position() {
      return { epoch, revision };
    },
    get bundle() {
      return bundle;
    },
    events,
    intents,
    results,
    async loadAuthorities() {
      return [...authorities.values()];
    },
    async stepAuthorities(_trustDomain, step) {
      const { x509, jwt, wit = [] } = step.publish;
      const appended = appendAuthorities(bundle, { x509Authorities: x509, jwtAuthorities: jwt, witAuthorities: wit });
      bundle = appended.bundle;
      revision += 1;
      for (const record of step.upserts) {
        const publishedRevision = record.publishedAt === undefined ? undefined : (record.publishedRevision ?? revision);
        authorities.set(record.id, { ...record, publishedRevision });
      }
      for (const id of step.forgotten) authorities.delete(id);
      events.push(...step.events);
      return [...authorities.values()];
    },
    async pruneBundle(_trustDomain, expiredBefore) {
      const before = bundle.x509Authorities.length + bundle.jwtAuthorities.length;
      const pruned = pruneBundle(bundle, expiredBefore);
      bundle = pruned.bundle;
      if (pruned.changed) revision += 1;
      return before - bundle.x509Authorities.length - bundle.jwtAuthorities.length;
    },
    async recordIntents(added) {
      if (added.some(({ id }) => intents.has(id))) throw new SpiffeError('internal', 'store.corrupt', 'an intent is there already');
      for (const intent of added) intents.set(intent.id, intent);
    },
    recordResults(added) {
      for (const { id, outcome } of added) results.set(id, outcome);
    },
    async recordAudit(added) {
      events.push(...added);
    },
  };
}
