import { setImmediate as nextTurn } from 'node:timers/promises';

import { describe, expect, test } from 'vitest';

import type { FeedItem } from '../../../server/registry/feed-items.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { createTestFollower, openTestRegistry } from '../../help/registry.ts';
import type { RegistryWorld, TestFollower } from '../../help/registry.ts';
import { agentId, draftOf, exampleOrg, idOf, scopeAt } from '../../help/store.ts';

const parent = '/spire/agent/test/a';
const a = agentId('a');
const partner = parseTrustDomain('partner.example');

async function started(world: RegistryWorld, name: string, version = 2): Promise<TestFollower> {
  const follower = createTestFollower(world.registry, agentId(name));
  follower.start(version);
  await begun(follower);
  return follower;
}

async function begun(follower: TestFollower): Promise<void> {
  while (!follower.begun) await nextTurn();
  await turns();
}

async function turns(): Promise<void> {
  for (let turn = 0; turn < 10; turn += 1) await nextTurn();
}

const changesIn = (items: readonly FeedItem[]) => items.flatMap((item) => (item.what === 'changes' ? item.changes : []));
const kinds = (follower: TestFollower): string[] => follower.items.map(({ what }) => what);
const scope = (world: RegistryWorld) => scopeAt(world.clock.now());

describe('a stream', () => {
  test('opens with a welcome and a snapshot, then tells each commit that concerns it with its number', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    await world.admit('b');
    await world.store.createEntries([draftOf('/web', parent), draftOf('/other', '/spire/agent/test/b')], scope(world));
    const follower = await started(world, 'a');
    expect(follower.items[0]).toEqual({ what: 'welcome', version: 2, serverTimeAt: world.clock.now(), snapshot: true });
    expect(kinds(follower)).toEqual(['welcome', 'snapshot']);
    expect([...follower.entries.values()].map(({ spiffeId }) => spiffeId)).toEqual([idOf('/web')]);
    expect(follower.position).toEqual(world.store.position);
    await world.store.createEntries([draftOf('/theirs', '/spire/agent/test/b')], scope(world));
    await world.store.createEntries([draftOf('/api', parent)], scope(world));
    await turns();
    expect(kinds(follower)).toEqual(['welcome', 'snapshot', 'changes']);
    expect(follower.items.at(-1)).toMatchObject({ position: world.store.position, committedAt: world.clock.now() });
    await follower.stop();
  });

  test('a snapshot comes in pages of 500, the last one with the position', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    for (let from = 0; from < 1_200; from += 400) {
      await world.store.createEntries(Array.from({ length: 400 }, (_, at) => draftOf(`/w${from + at}`, parent)), scope(world));
    }
    const follower = await started(world, 'a');
    const pages = follower.items.flatMap((item) => (item.what === 'snapshot' ? [item] : []));
    expect(pages.map(({ entries }) => entries.length)).toEqual([500, 500, 200]);
    expect(pages.map(({ last }) => last?.revision)).toEqual([undefined, undefined, world.store.position.revision]);
    await follower.stop();
  });

  test('an idle stream beats every 25 s, reads nothing, and carries the agent past what does not concern it', async () => {
    const world = await openTestRegistry();
    await world.admit('a', { expiresAt: world.clock.now() + 864e5 });
    const follower = await started(world, 'a');
    await world.store.createEntries([draftOf('/theirs', '/spire/agent/test/b')], scope(world));
    await world.clock.advance(24_999);
    expect(kinds(follower)).toEqual(['welcome', 'snapshot']);
    await world.clock.advance(1);
    expect(follower.items.at(-1)).toEqual({ what: 'heartbeat', serverTimeAt: world.clock.now(), position: world.store.position });
    await world.clock.advance(50_000);
    expect(kinds(follower).filter((what) => what === 'heartbeat')).toHaveLength(3);
    await follower.stop();
  });

  test('an entry ends in the stream at its instant, though nobody deleted it', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    await world.store.createEntries([draftOf('/web', parent, ['a:1'], { expiresAt: world.clock.now() + 5_000 })], scope(world));
    const follower = await started(world, 'a');
    await world.clock.advance(4_999);
    expect(follower.entries.size).toBe(1);
    await world.clock.advance(1);
    expect(follower.entries.size).toBe(0);
    expect(world.registry.entries.size).toBe(1);
    await follower.stop();
  });

  test('a bundle that is still to come by a relationship is told when it comes, also to who was away then', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    await world.admit('b');
    const relationship = { trustDomain: partner, endpointUrl: 'https://partner.example/', profile: { type: 'https_web' } } as const;
    const follower = await started(world, 'a');
    const bystander = await started(world, 'b');
    await world.store.createRelationship(relationship, undefined, scope(world));
    await world.store.createEntries([draftOf('/web', parent, ['a:1'], { federatesWith: [partner] })], scope(world));
    await turns();
    expect([...follower.entries.values()].map(({ federatesWith }) => federatesWith)).toEqual([[partner]]);
    expect(follower.bundles.has(partner)).toBe(false);
    await world.store.refreshBundle(relationship, composeBundle({ ...emptyBundle(partner), sequence: 1n }), scope(world));
    await turns();
    expect(follower.bundles.get(partner)?.sequence).toBe(1n);
    await follower.stop();
    await world.store.refreshBundle(relationship, composeBundle({ ...emptyBundle(partner), sequence: 2n }), scope(world));
    follower.start();
    await begun(follower);
    expect(follower.bundles.get(partner)?.sequence).toBe(2n);
    expect([follower.position?.revision, follower.items.filter(({ what }) => what === 'snapshot')]).toEqual([world.store.position.revision, expect.objectContaining({ length: 1 })]);
    // Whom it does not concern hears nothing of it.
    expect(changesIn(bystander.items)).toEqual([]);
    await Promise.all([follower.stop(), bystander.stop()]);
  });

  test('federated bundles come with the first entry that needs them and go with the last', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    const bundle = composeBundle({ ...emptyBundle(partner), sequence: 1n });
    await world.store.writeBundle(bundle, 'set', scope(world));
    await world.store.appendBundle(exampleOrg, [], [], scope(world));
    const follower = await started(world, 'a');
    expect([...follower.bundles.keys()]).toEqual([exampleOrg]);
    const federated = { federatesWith: [partner] };
    await world.store.createEntries([draftOf('/web', parent, ['a:1'], { ...federated, id: 'w' }), draftOf('/api', parent, ['a:1'], { ...federated, id: 'x' })], scope(world));
    await turns();
    expect(follower.bundles.get(partner)).toEqual(bundle);
    // The bundle comes no later than the entry that speaks of it.
    expect(changesIn(follower.items).map(({ what }) => what)).toEqual(['bundle', 'entry', 'entry']);
    await world.store.writeBundle({ ...bundle, sequence: 2n }, 'set', scope(world));
    await world.store.deleteEntries(['w'], scope(world));
    await turns();
    expect(follower.bundles.get(partner)?.sequence).toBe(2n);
    await world.store.updateEntries([{ id: 'x', fields: { federatesWith: [] } }], scope(world));
    await turns();
    expect([...follower.bundles.keys()]).toEqual([exampleOrg]);
    const told = changesIn(follower.items).length;
    await world.store.writeBundle({ ...bundle, sequence: 3n }, 'set', scope(world));
    await turns();
    expect(changesIn(follower.items)).toHaveLength(told);
    await follower.stop();
  });
});

describe('the end of a stream', () => {
  test.each([
    ['ban', 'banned', (world: RegistryWorld) => world.store.banAgent(a, scope(world))],
    ['delete', 'evicted', (world: RegistryWorld) => world.store.deleteAgent(a, scope(world))],
  ] as const)('%s cuts it at once, with the command as the last word', async (_how, action, cut) => {
    const world = await openTestRegistry();
    await world.admit('a');
    const follower = await started(world, 'a');
    await cut(world);
    await turns();
    expect(follower.ended).toEqual({ error: undefined });
    expect(follower.items.at(-1)).toMatchObject({ what: 'changes', changes: [{ what: 'command', action }] });
    expect(world.registry.feed.following()).toEqual([]);
    expect(world.registry.feed.unconfirmed(1e9)).toEqual([]);
    expect(world.registry.holdings.rootsOf(a, world.clock.now()).size).toBe(0);
    follower.start();
    await begun(follower);
    expect(follower.ended).toMatchObject({ error: { kind: 'denied', reason: 'feed.agent-inactive' } });
  });

  test('a ban in the middle of a snapshot skips the pages that are left', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    await world.store.createEntries(Array.from({ length: 501 }, (_, at) => draftOf(`/w${at}`, parent)), scope(world));
    const stream = world.registry.feed.follow(a, undefined, 2, new AbortController().signal);
    expect((await stream.next()).value).toMatchObject({ what: 'welcome' });
    expect((await stream.next()).value).toMatchObject({ what: 'snapshot', last: undefined });
    await world.store.banAgent(a, scope(world));
    expect((await stream.next()).value).toMatchObject({ what: 'changes', changes: [{ action: 'banned' }] });
    expect(await stream.next()).toMatchObject({ done: true });
  });

  test('a newer stream of the same agent ends the older', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    const older = await started(world, 'a');
    const newer = await started(world, 'a');
    await turns();
    expect(older.ended).toMatchObject({ error: { kind: 'unavailable', reason: 'feed.replaced' } });
    expect(newer.ended).toBeUndefined();
    await world.store.createEntries([draftOf('/web', parent)], scope(world));
    await turns();
    expect(newer.entries.size).toBe(1);
    expect(world.registry.feed.following()).toHaveLength(1);
    await newer.stop();
  });

  test('who reads too slowly is ended, and resumes without loss', async () => {
    const world = await openTestRegistry({ maxQueued: 5 });
    await world.admit('a');
    const stream = world.registry.feed.follow(a, undefined, 2, new AbortController().signal);
    await stream.next();
    const snapshot = (await stream.next()).value as Extract<FeedItem, { what: 'snapshot' }>;
    for (let at = 0; at < 7; at += 1) await world.store.createEntries([draftOf(`/w${at}`, parent)], scope(world));
    await expect(stream.next()).rejects.toMatchObject({ kind: 'unavailable', reason: 'feed.overflow' });
    const again = world.registry.feed.follow(a, snapshot.last, 2, new AbortController().signal);
    expect((await again.next()).value).toMatchObject({ what: 'welcome', snapshot: false });
    expect((await again.next()).value).toMatchObject({ position: world.store.position, changes: Array.from({ length: 7 }, () => ({ what: 'entry' })) });
    await again.return?.();
  });

  test('an agent whose SVID expired is ended at the next beat', async () => {
    const world = await openTestRegistry();
    await world.admit('a', { expiresAt: world.clock.now() + 30_000 });
    const follower = await started(world, 'a');
    await world.clock.advance(50_000);
    expect(follower.ended).toMatchObject({ error: { kind: 'denied', reason: 'feed.agent-inactive' } });
  });
});

describe('resuming', () => {
  test('an agent that missed nothing is told nothing, without a read of the store', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    const follower = await started(world, 'a');
    await follower.stop();
    const told = follower.items.length;
    follower.start();
    await begun(follower);
    expect(follower.items.slice(told)).toMatchObject([{ what: 'welcome', snapshot: false }]);
    await follower.stop();
  });

  test.each([
    ['version 1', 1, (world: RegistryWorld) => world.store.position],
    ['another epoch', 2, (world: RegistryWorld) => ({ ...world.store.position, epoch: 'other' })],
    ['a position that is not yet', 2, (world: RegistryWorld) => ({ ...world.store.position, revision: world.store.position.revision + 1 })],
  ] as const)('%s takes a snapshot', async (_name, version, position) => {
    const world = await openTestRegistry();
    await world.admit('a');
    const stream = world.registry.feed.follow(a, position(world), version, new AbortController().signal);
    expect((await stream.next()).value).toMatchObject({ what: 'welcome', version, snapshot: true });
    await stream.return?.();
  });

  test('what was deleted meanwhile is told by what is still held', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    await world.store.createEntries([draftOf('/web', parent, ['a:1'], { id: 'w' }), draftOf('/api', parent, ['a:1'], { id: 'x' })], scope(world));
    const follower = await started(world, 'a');
    await follower.stop();
    await world.store.deleteEntries(['w'], scope(world));
    await world.store.createEntries([draftOf('/new', parent, ['a:1'], { id: 'n' })], scope(world));
    const told = follower.items.length;
    follower.start();
    await begun(follower);
    expect(changesIn(follower.items.slice(told))).toMatchObject([{ what: 'entry', entry: { id: 'n' } }, { what: 'held', ids: ['x', 'n'] }]);
    await follower.stop();
  });
});

describe('confirmation', () => {
  test('a revision is confirmed by those it concerns; the others have nothing to confirm', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    await world.admit('b');
    await world.admit('poller');
    const [first, second] = [await started(world, 'a'), await started(world, 'b')];
    const { feed } = world.registry;
    expect(feed.pollers).toBe(true);
    await world.store.deleteAgent(agentId('poller'), scope(world));
    expect(feed.pollers).toBe(false);
    first.confirm();
    second.confirm();
    await world.store.createEntries([draftOf('/web', parent)], scope(world));
    await turns();
    const { revision } = world.store.position;
    expect(feed.unconfirmed(revision)).toEqual([a]);
    first.confirm();
    expect(feed.unconfirmed(revision)).toEqual([]);
    expect(feed.following()).toMatchObject([{ agentId: a, confirmedRevision: revision }, { agentId: agentId('b'), confirmedRevision: revision }]);
    await second.stop();
    await world.store.appendBundle(exampleOrg, [], [], scope(world));
    await turns();
    first.confirm();
    // Away, but it will be back, and has not seen this bundle.
    expect(feed.unconfirmed(world.store.position.revision)).toEqual([agentId('b')]);
    await first.stop();
  });

  test('words of another history, or of what was not sent yet, confirm nothing more than there is', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    const follower = await started(world, 'a');
    const { feed } = world.registry;
    await world.store.createEntries([draftOf('/web', parent)], scope(world));
    const { epoch, revision } = world.store.position;
    feed.confirm(a, { epoch: 'other', revision: 1e9 });
    expect(feed.unconfirmed(revision)).toEqual([a]);
    feed.confirm(a, { epoch, revision: 1e9 });
    await world.store.createEntries([draftOf('/api', parent)], scope(world));
    expect(feed.unconfirmed(revision + 1)).toEqual([a]);
    await follower.stop();
  });

  test('an agent is behind only by what concerns it', async () => {
    const world = await openTestRegistry();
    await world.admit('a');
    const follower = await started(world, 'a');
    const { feed } = world.registry;
    const at = follower.position;
    await world.store.createEntries([draftOf('/theirs', '/spire/agent/test/b')], scope(world));
    expect(feed.behind(a, at)).toBeUndefined();
    await world.store.createEntries([draftOf('/web', parent)], scope(world));
    expect(feed.behind(a, at)).toEqual(world.store.position);
    expect(feed.behind(a, undefined)).toEqual(world.store.position);
    expect(feed.behind(agentId('stranger'), at)).toEqual(world.store.position);
    await follower.stop();
  });
});

test('a change is delivered with the time it took', async () => {
  const delays: number[] = [];
  const world = await openTestRegistry({ onDelivered: (delayMs) => void delays.push(delayMs) });
  await world.admit('a');
  const stream = world.registry.feed.follow(a, undefined, 2, new AbortController().signal);
  await stream.next();
  await stream.next();
  await world.store.createEntries([draftOf('/web', parent)], scope(world));
  await world.clock.advance(40);
  await stream.next();
  expect(delays).toEqual([40]);
  await stream.return?.();
});
