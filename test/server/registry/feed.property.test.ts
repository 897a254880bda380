import { setImmediate as nextTurn } from 'node:timers/promises';

import { describe, expect, test } from 'vitest';

import { isActive } from '../../../server/registry/agents.ts';
import { composeBundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { createTestFollower, openTestRegistry } from '../../help/registry.ts';
import type { RegistryWorld, TestFollower } from '../../help/registry.ts';
import { agentId, draftOf, exampleOrg, idOf, scopeAt } from '../../help/store.ts';

const agentNames = ['a', 'b', 'c', 'd'];
const workloads = ['/w1', '/w2', '/w3', '/w4', '/w5', '/w6', '/w7', '/w8'];
const foreign = ['one.example', 'two.example', 'three.example'].map(parseTrustDomain);

/** The same numbers for the same seed. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function createChanges(world: RegistryWorld, random: (below: number) => number) {
  const { store, registry, clock } = world;
  const pick = <T>(from: readonly T[]): T => from[random(from.length)] as T;
  const scope = () => scopeAt(clock.now());
  const parentPath = (): string =>
    random(5) === 0 ? '/spire/server' : random(2) === 0 ? pick(workloads) : `/spire/agent/test/${pick(agentNames)}`;
  const fields = (parent: string) => ({
    federatesWith: random(3) === 0 ? foreign.filter((name) => random(2) === 0 && registry.bundles.get(name) !== undefined) : [],
    expiresAt: parent !== '/spire/server' && random(6) === 0 ? clock.now() + 1_000 * (1 + random(60)) : undefined,
  });
  const selectors = (parent: string): string[] =>
    parent === '/spire/server' ? [`node:rack:${random(3)}`] : [`unix:uid:${random(40)}`];
  const anyEntry = (): RegistrationEntry | undefined => pick(registry.entries.list({}, 0, '').items);
  const bundle = (name: (typeof foreign)[number]) =>
    composeBundle({ trustDomain: name, x509Authorities: [], jwtAuthorities: [], refreshHintSeconds: random(1_000), sequence: 1n });

  const kinds: (() => Promise<unknown>)[] = [
    async () => {
      const drafts = Array.from({ length: 1 + random(4) }, () => {
        const parent = parentPath();
        return draftOf(pick(workloads), parent, selectors(parent), fields(parent));
      });
      await store.createEntries(drafts, scope());
    },
    async () => {
      const entry = anyEntry();
      if (entry === undefined) return;
      const parent = parentPath();
      const change = random(4);
      const moved = { parentId: idOf(parent), expiresAt: undefined };
      const named = { spiffeId: idOf(pick(workloads)) };
      const rest = { selectors: selectors(parent).map(parseSelector), ...fields(parent) };
      await store.updateEntries([{ id: entry.id, fields: change === 0 ? moved : change === 1 ? named : change === 2 ? rest : { ...moved, ...named } }], scope());
    },
    async () => {
      const gone = [anyEntry(), anyEntry()].flatMap((entry) => entry?.id ?? []);
      await store.deleteEntries(gone, scope());
    },
    async () => void (await store.writeBundle(bundle(pick(foreign)), 'set', scope())),
    async () => {
      const name = pick(foreign);
      if (registry.bundles.get(name) !== undefined) await store.deleteBundle(name, random(2) === 0 ? 'delete' : 'dissociate', scope());
    },
    async () => {
      const name = pick(agentNames);
      if (registry.agents.get(agentId(name)) !== undefined && random(3) === 0) await store.deleteAgent(agentId(name), scope());
      await world.admit(name, { selectors: [0, 1, 2].filter(() => random(2) === 0).map((rack) => parseSelector(`node:rack:${rack}`)), expiresAt: clock.now() + 864e5 });
    },
    async () => clock.advance(random(20_000)),
    async () => void (await store.pruneEntries(3, scope())),
  ];
  const weights = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7];
  return () => pick(weights.map((index) => kinds[index] as () => Promise<unknown>))();
}

async function quiet(followers: readonly TestFollower[]): Promise<void> {
  while (followers.some(({ begun }) => !begun)) await nextTurn();
  for (let turn = 0; turn < 12; turn += 1) await nextTurn();
}

function checkFollower(world: RegistryWorld, follower: TestFollower, name: string, context: string): void {
  const { registry, clock } = world;
  const held = registry.holdings.authorizedEntries(agentId(name), clock.now());
  const expected = new Map(held.map((entry) => [entry.id, entry]));
  expect(follower.entries, context).toEqual(expected);
  const needed = new Set([exampleOrg, ...held.flatMap((entry) => entry.federatesWith)]);
  for (const domain of needed) expect(follower.bundles.get(domain), `${context} ${domain}`).toEqual(registry.bundles.get(domain));
  for (const entry of registry.entries.list({}, 0, '').items) {
    // The walk up and the walk down are one rule.
    expect(registry.holdings.heldEntry(agentId(name), entry.id, clock.now())?.id === entry.id, `${context} ${entry.id}`).toBe(expected.has(entry.id));
  }
}

describe('feed against the rule it follows', () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])('random changes and resumptions end in what is authorized, seed %i', async (seed) => {
    const world = await openTestRegistry();
    const random = randomFrom(seed);
    const change = createChanges(world, random);
    for (const name of agentNames) await world.admit(name, { expiresAt: world.clock.now() + 864e5 });
    for (const name of foreign.slice(0, 2)) {
      await world.store.writeBundle(
        composeBundle({ trustDomain: name, x509Authorities: [], jwtAuthorities: [], refreshHintSeconds: 1, sequence: 1n }),
        'set',
        scopeAt(world.clock.now()),
      );
    }
    const followers = agentNames.map((name) => createTestFollower(world.registry, agentId(name)));
    for (const follower of followers) follower.start();
    for (let step = 0; step < 400; step += 1) {
      await change();
      const restarted = followers[random(followers.length * 3)];
      if (restarted !== undefined) {
        await restarted.stop();
        for (let missed = random(4); missed > 0; missed -= 1) await change();
        restarted.start(random(8) === 0 ? 1 : 2);
      }
      if (step % 10 !== 9) continue;
      for (const follower of followers) if (follower.ended !== undefined) follower.start();
      await quiet(followers);
      for (const [index, name] of agentNames.entries()) {
        if (!isActive(world.registry.agents.get(agentId(name)), world.clock.now())) continue;
        checkFollower(world, followers[index] as TestFollower, name, `seed ${seed}, step ${step}, agent ${name}`);
      }
    }
    for (const follower of followers) await follower.stop();
    const seen = followers.flatMap(({ items }) => items);
    // Nothing is proved unless both ways were taken, and changes came live.
    expect(seen.filter((item) => item.what === 'welcome' && !item.snapshot).length).toBeGreaterThan(10);
    expect(seen.filter((item) => item.what === 'welcome' && item.snapshot).length).toBeGreaterThan(10);
    expect(seen.filter((item) => item.what === 'changes').length).toBeGreaterThan(100);
  });
});
