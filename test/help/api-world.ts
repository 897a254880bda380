/**
 * The server's services over real parts, without doors: a store in memory, the registry, authorities with keys in memory,
 * issuing and admission. Callers are made by the tests.
 */
import { generateKeyPairSync } from 'node:crypto';

import { onTestFinished } from 'vitest';

import { createAdmission } from '../../server/admission/admit.ts';
import { joinTokenVerifier } from '../../server/admission/join-token.ts';
import { createAdmissionGate } from '../../server/admission/limits.ts';
import { createAgentsApi } from '../../server/api/agents.ts';
import { createBundlesApi } from '../../server/api/bundles.ts';
import { createEntriesApi } from '../../server/api/entries.ts';
import { createNodeApi } from '../../server/api/node.ts';
import { createOperatorApi } from '../../server/api/operator.ts';
import { createSvidsApi } from '../../server/api/svids.ts';
import { createTrustDomainsApi } from '../../server/api/trust-domains.ts';
import type { AuditEvent } from '../../server/audit/event.ts';
import { createIssuer } from '../../server/authority/issue.ts';
import { createMemoryKeyStore } from '../../server/authority/keys-memory.ts';
import { createMint } from '../../server/authority/mint.ts';
import { composeProfile, defaultProfileSettings } from '../../server/authority/profile.ts';
import { createProofPool, type ProofPool } from '../../server/authority/proof.ts';
import { openRotation } from '../../server/authority/rotate.ts';
import { defaultSlotPolicy } from '../../server/authority/slots.ts';
import { createSelfUpstream } from '../../server/authority/upstream-self.ts';
import { createRefresher } from '../../server/federation/refresh.ts';
import { openRelationships } from '../../server/federation/relationships.ts';
import { createEntryRules } from '../../server/registry/entries.ts';
import type { AgentRecord } from '../../server/store/store.ts';
import { composeRequest } from '../../spiffe/x509/request.ts';
import { createEndpoints } from './endpoints.ts';
import { openTestRegistry } from './registry.ts';
import { draftOf, exampleOrg, scopeAt } from './store.ts';

/** With `wit` the server issues WIT-SVIDs. */
export async function openApiWorld({ wit = false } = {}) {
  const world = await openTestRegistry();
  const { store, registry, clock } = world;
  const { entries, agents, bundles, holdings, feed } = registry;
  const keys = createMemoryKeyStore();
  const rotation = await openRotation({
    trustDomain: exampleOrg,
    owner: 'server',
    clock,
    store,
    keys,
    upstream: createSelfUpstream(keys),
    delivery: feed,
    furtherKinds: wit ? ['wit'] : [],
    policy: () => ({ keyType: 'ec-p256', lifeMs: 86_400_000, slots: defaultSlotPolicy }),
    onProblem: () => undefined,
  });
  const refusals: AuditEvent[] = [];
  const recordRefusals = async (events: readonly AuditEvent[]): Promise<void> => void refusals.push(...events);
  const profile = composeProfile(defaultProfileSettings);
  const issuing = { trustDomain: exampleOrg, clock, active: rotation.active, profile: () => profile, store, keys };
  const issuer = createIssuer({ ...issuing, holdings, recordRefusals });
  // Its thread is started by the tests that need it.
  let pool: ProofPool | undefined;
  const proofs: Pick<ProofPool, 'check'> = {
    check(requests) {
      if (pool === undefined) {
        const opened = createProofPool(1);
        onTestFinished(() => opened.close());
        pool = opened;
      }
      return pool.check(requests);
    },
  };
  const admission = createAdmission({
    trustDomain: exampleOrg,
    clock,
    verifiers: [joinTokenVerifier],
    gate: createAdmissionGate(clock),
    agents,
    issuer,
    store,
    recordRefusals,
  });
  const disconnected: string[] = [];
  const relationships = await openRelationships(store);
  const endpoints = createEndpoints();
  const refresher = createRefresher({
    clock,
    random: () => 0,
    relationships,
    bundles,
    store,
    fetch: endpoints.fetch,
    bounds: { shortestMs: 60_000, longestMs: 86_400_000 },
    atOnce: 4,
    observe: { refreshed: () => undefined, failed: () => undefined },
  });
  return {
    ...world,
    rotation,
    refusals,
    disconnected,
    endpoints,
    /** A request for a certificate and its public key. */
    request(): { readonly csr: Buffer; readonly publicKey: Buffer } {
      const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      return { csr: Buffer.from(composeRequest({ privateKey })), publicKey: publicKey.export({ type: 'spki', format: 'der' }) };
    },
    /** An entry below the agent. */
    async register(agent: AgentRecord, path: string, fields = {}): Promise<string> {
      const [outcome] = await store.createEntries([draftOf(path, agent.id.slice('spiffe://example.org'.length), undefined, fields)], scopeAt(clock.now()));
      if (outcome?.status !== 'done') throw new Error('the entry was not created');
      return outcome.entry.id;
    },
    agentsApi: createAgentsApi({
      trustDomain: exampleOrg,
      clock,
      admission,
      agents,
      store,
      disconnect: (id, why) => {
        feed.disconnect(id, why);
        disconnected.push(`${why} ${id}`);
      },
    }),
    bundlesApi: createBundlesApi({ trustDomain: exampleOrg, clock, bundles, store }),
    entriesApi: createEntriesApi({
      trustDomain: exampleOrg,
      clock,
      rules: createEntryRules({ trustDomain: exampleOrg, store, entries }),
      entries,
      authorizedEntries: (id) => holdings.authorizedEntries(id, clock.now()),
    }),
    svidsApi: createSvidsApi({ trustDomain: exampleOrg, clock, issuer, proofs, mint: createMint(issuing), wit }),
    trustDomainsApi: createTrustDomainsApi({ trustDomain: exampleOrg, clock, relationships, bundles, refresher, store }),
    nodeApi: createNodeApi({ clock, feed, issuer, store }),
    operatorApi: createOperatorApi({
      clock,
      store,
      authorities: rotation,
      federation: { relationships, state: (name) => refresher.state(name), hasBundle: (name) => bundles.get(name) !== undefined },
      unconfirmed: feed.unconfirmed,
      status: () => ({ version: 'test', trustDomain: exampleOrg, startedAt: 1, entries: entries.size, agents: agents.size, followingAgents: feed.following().length, unmetConditions: [], federation: { relationships: 3, failing: 2, pending: 1 } }),
    }),
  };
}
