/**
 * What the tests of authorities have in common: a rotation over a store in memory on a test clock. What it does there is
 * for the tests to say.
 */

import type { KeyStore } from '../../server/authority/keys.ts';
import { openRotation, type Rotation, type RotationDeps } from '../../server/authority/rotate.ts';
import { createSelfUpstream } from '../../server/authority/upstream-self.ts';
import type { Delivery } from '../../server/authority/slots.ts';
import { createTestClock, type TestClock } from './clock.ts';
import { createSyncKeyStore } from './sync-keys.ts';
import { createMemoryStore, type MemoryStore } from './memory-store.ts';
import { exampleOrg } from './store.ts';

export const hour = 3_600_000;
export const life = 24 * hour;

export interface AuthorityWorld {
  readonly clock: TestClock;
  readonly store: MemoryStore;
  readonly keys: KeyStore;
  /** What went wrong in the background. */
  readonly problems: unknown[];
  readonly delivery: { unconfirmed: readonly string[]; pollers: boolean };
  deps(changed?: Partial<RotationDeps>): RotationDeps;
  open(changed?: Partial<RotationDeps>): Promise<Rotation>;
}

let worlds = 0;

export function createAuthorityWorld(): AuthorityWorld {
  const clock = createTestClock();
  const store = createMemoryStore(exampleOrg, `epoch-${(worlds += 1)}`);
  const keys = createSyncKeyStore();
  const problems: unknown[] = [];
  const delivery = { unconfirmed: [] as readonly string[], pollers: false };
  const told: Delivery = {
    unconfirmed: () => delivery.unconfirmed,
    get pollers() {
      return delivery.pollers;
    },
  };
  const deps = (changed: Partial<RotationDeps> = {}): RotationDeps => {
    const usedKeys = changed.keys ?? keys;
    return {
      trustDomain: exampleOrg,
      owner: 'server-1',
      clock,
      store,
      keys: usedKeys,
      upstream: createSelfUpstream(usedKeys),
      delivery: told,
      policy: () => ({ keyType: 'ec-p256', lifeMs: life, slots: { absenceMs: 2 * hour, pollMs: 15_000, graceMs: 60_000 } }),
      onProblem: (problem) => void problems.push(problem),
      ...changed,
    };
  };
  return { clock, store, keys, problems, delivery, deps, open: (changed) => openRotation(deps(changed)) };
}
