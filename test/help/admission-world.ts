/**
 * Admission over the embedded store in memory, with the records of agents followed from its commits. Which verifiers there
 * are, and what nodes show them, is for the tests to say.
 */
import { onTestFinished } from 'vitest';
import { createAdmission, type Admission } from '../../server/admission/admit.ts';
import { joinTokenVerifier } from '../../server/admission/join-token.ts';
import { createAdmissionGate, defaultAdmissionLimits, type AdmissionLimits } from '../../server/admission/limits.ts';
import type { Verifier } from '../../server/admission/verifier.ts';
import type { AuditEvent } from '../../server/audit/event.ts';
import type { AgentRecord, Scope, Store } from '../../server/store/store.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { composeRequest } from '../../spiffe/x509/request.ts';
import { ecPair } from './forge.ts';
import { createIssuerWorld, type IssuerWorld } from './issuer-world.ts';
import { exampleOrg, openTestStore } from './store.ts';

export interface AdmissionWorld extends Omit<IssuerWorld, 'store'> {
  readonly store: Store;
  readonly admission: Admission;
  readonly agents: ReadonlyMap<SpiffeId, AgentRecord>;
  readonly csr: Uint8Array;
  readonly scope: Scope;
  join(token: string, address?: string): ReturnType<Admission['admit']>;
}

export interface AdmissionWorldOptions {
  readonly verifiers?: readonly Verifier[];
  readonly limits?: Partial<AdmissionLimits>;
  /** What the admission sees of the store. */
  readonly seen?: (store: Store) => Store;
}

export async function createAdmissionWorld({ verifiers = [], limits = {}, seen = (store) => store }: AdmissionWorldOptions = {}): Promise<AdmissionWorld> {
  const base = await createIssuerWorld();
  const { clock } = base;
  const store = await openTestStore({ clock });
  const agents = new Map<SpiffeId, AgentRecord>();
  onTestFinished(
    store.subscribe(({ changes }) => {
      for (const change of changes) {
        if (change.noun !== 'agent') continue;
        if (change.agent === undefined) agents.delete(change.id);
        else agents.set(change.id, change.agent);
      }
    }),
  );
  const used = seen(store);
  const refusals: AuditEvent[] = [];
  const admission = createAdmission({
    trustDomain: exampleOrg,
    clock,
    verifiers: [joinTokenVerifier, ...verifiers],
    gate: createAdmissionGate(clock, { ...defaultAdmissionLimits, ...limits }),
    agents,
    issuer: base.issuerWith({ store: used }),
    store: used,
    recordRefusals: async (events) => void refusals.push(...events),
  });
  const csr = composeRequest({ privateKey: ecPair().privateKey });
  const scope: Scope = { actor: 'stranger:192.0.2.1', call: '/spire.api.server.agent.v1.Agent/AttestAgent', at: clock.now() };
  const noChallenge = () => Promise.reject(new Error('a token needs no challenge'));
  return {
    ...base,
    refusals,
    store,
    admission,
    agents,
    csr,
    scope,
    join: (token, address = '192.0.2.1') =>
      admission.admit({ type: 'join_token', payload: Buffer.from(token), csr, address }, noChallenge, { ...scope, at: clock.now() }, new AbortController().signal),
  };
}
