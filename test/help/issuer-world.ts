/**
 * An issuer with authorities, over a store in memory: entries are given to agents by putting them into `entries`. What is
 * issued and recorded is for the tests to say.
 */
import type { AuditEvent } from '../../server/audit/event.ts';
import { createIssuer, type IssueCaller, type Issuer, type IssuerDeps } from '../../server/authority/issue.ts';
import { composeProfile, defaultProfileSettings, type Profile } from '../../server/authority/profile.ts';
import type { Rotation, RotationDeps } from '../../server/authority/rotate.ts';
import { composeEntry, type EntryDraft, type RegistrationEntry } from '../../spiffe/entry.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { createAuthorityWorld, type AuthorityWorld } from './authority-world.ts';
import { agentId, draftOf, exampleOrg, scopeAt } from './store.ts';

export interface IssuerWorld extends AuthorityWorld {
  readonly rotation: Rotation;
  readonly issuer: Issuer;
  readonly agent: SpiffeId;
  readonly caller: IssueCaller;
  /** What `agent` holds, by entry id. */
  readonly entries: Map<string, RegistrationEntry>;
  readonly refusals: AuditEvent[];
  profile: Profile;
  /** Gives the agent an entry for `/<id>`. */
  hold(id: string, fields?: Partial<EntryDraft>): RegistrationEntry;
  issuerWith(changed: Partial<IssuerDeps>): Issuer;
  issuerDeps(changed?: Partial<IssuerDeps>): IssuerDeps;
}

export async function createIssuerWorld(changed: Partial<RotationDeps> = {}): Promise<IssuerWorld> {
  const world = createAuthorityWorld();
  const rotation = await world.open(changed);
  const agent = agentId('a');
  const entries = new Map<string, RegistrationEntry>();
  const refusals: AuditEvent[] = [];
  let profile = composeProfile(defaultProfileSettings);
  const issuerDeps = (changed: Partial<IssuerDeps> = {}): IssuerDeps => ({
    trustDomain: exampleOrg,
    clock: world.clock,
    active: rotation.active,
    profile: () => profile,
    holdings: { heldEntry: (asking, entryId) => (asking === agent ? entries.get(entryId) : undefined) },
    recordRefusals: async (events) => void refusals.push(...events),
    store: world.store,
    keys: world.keys,
    ...changed,
  });
  return {
    ...world,
    rotation,
    issuer: createIssuer(issuerDeps()),
    agent,
    caller: { agentId: agent, scope: scopeAt(world.clock.now(), agent) },
    entries,
    refusals,
    get profile() {
      return profile;
    },
    set profile(next) {
      profile = next;
    },
    hold(id, fields = {}) {
      const entry = composeEntry(draftOf(`/${id}`, '/spire/agent/test/a', undefined, fields), { id, createdAt: world.clock.now(), revisionNumber: 0 });
      entries.set(id, entry);
      return entry;
    },
    issuerWith: (changed) => createIssuer(issuerDeps(changed)),
    issuerDeps,
  };
}
