/**
 * A registry over a real store in memory, and followers that apply what they are told the way an agent does.
 */
import { onTestFinished } from 'vitest';

import { openRegistry } from '../../server/registry/registry.ts';
import type { Registry, RegistryOptions } from '../../server/registry/registry.ts';
import type { FeedItem } from '../../server/registry/feed-items.ts';
import type { Position, Store } from '../../server/store/store.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import { createTestClock } from './clock.ts';
import type { TestClock } from './clock.ts';
import { agentOf, exampleOrg, intentOf, openTestStore, scopeAt } from './store.ts';
import type { AgentRecord } from '../../server/store/store.ts';

export interface RegistryWorld {
  readonly clock: TestClock;
  readonly store: Store;
  readonly registry: Registry;
  admit(name: string, fields?: Partial<AgentRecord>): Promise<AgentRecord>;
}

/** Its expiry loop runs until the test ends. */
export async function openTestRegistry(options: Partial<RegistryOptions> = {}): Promise<RegistryWorld> {
  const clock = createTestClock();
  const store = await openTestStore({ clock });
  const registry = await openRegistry({ store, clock, trustDomain: exampleOrg, maxEntries: 10_000, ...options });
  const stop = new AbortController();
  const running = registry.run(stop.signal);
  onTestFinished(async () => {
    stop.abort(new Error('test finished'));
    await running;
    registry.close();
  });
  return {
    clock,
    store,
    registry,
    admit: (name, fields) => {
      const agent = agentOf(name, clock.now(), fields);
      return store.admitAgent({ agent, tokenHash: undefined, intent: intentOf(clock.now()) }, scopeAt(clock.now()));
    },
  };
}

export interface TestFollower {
  readonly items: readonly FeedItem[];
  readonly entries: ReadonlyMap<string, RegistrationEntry>;
  readonly bundles: ReadonlyMap<TrustDomain, Bundle>;
  readonly position: Position | undefined;
  /** How the newest stream ended; `undefined` while it lives. */
  readonly ended: { readonly error: unknown } | undefined;
  /** Whether the newest stream has begun, or ended. */
  readonly begun: boolean;
  start(version?: number): void;
  stop(): Promise<void>;
  confirm(): void;
}

/** Keeps its state over streams, as an agent does. */
export function createTestFollower(registry: Registry, agentId: SpiffeId): TestFollower {
  const items: FeedItem[] = [];
  const entries = new Map<string, RegistrationEntry>();
  const bundles = new Map<TrustDomain, Bundle>();
  let pages: Extract<FeedItem, { what: 'snapshot' }>[] = [];
  let position: Position | undefined;
  let begun = false;
  let ended: { readonly error: unknown } | undefined;
  let stream: { readonly stop: AbortController; readonly done: Promise<void> } | undefined;

  const apply = (item: FeedItem): void => {
    items.push(item);
    switch (item.what) {
      case 'welcome':
        begun = true;
        pages = [];
        return;
      case 'snapshot':
        pages.push(item);
        if (item.last === undefined) return;
        entries.clear();
        bundles.clear();
        for (const page of pages) {
          for (const entry of page.entries) entries.set(entry.id, entry);
          for (const bundle of page.bundles) bundles.set(bundle.trustDomain, bundle);
        }
        position = item.last;
        return;
      case 'changes':
        for (const change of item.changes) {
          if (change.what === 'entry') entries.set(change.entry.id, change.entry);
          if (change.what === 'entry-removed') entries.delete(change.id);
          if (change.what === 'bundle') bundles.set(change.bundle.trustDomain, change.bundle);
          if (change.what === 'bundle-removed') bundles.delete(change.trustDomain);
          if (change.what === 'held') {
            const held = new Set(change.ids);
            for (const id of entries.keys()) if (!held.has(id)) entries.delete(id);
          }
        }
        checkForward(position, item.position);
        position = item.position;
        return;
      case 'heartbeat':
        checkForward(position, item.position);
        position = item.position;
    }
  };
  const run = async (version: number, signal: AbortSignal): Promise<void> => {
    try {
      for await (const item of registry.feed.follow(agentId, position, version, signal)) apply(item);
      ended = { error: undefined };
    } catch (error) {
      ended = { error };
    }
  };

  return {
    items,
    entries,
    bundles,
    get position() {
      return position;
    },
    get ended() {
      return ended;
    },
    get begun() {
      return begun || ended !== undefined;
    },
    start(version = 2) {
      begun = false;
      ended = undefined;
      const stop = new AbortController();
      stream = { stop, done: run(version, stop.signal) };
    },
    async stop() {
      stream?.stop.abort(new Error('stopped'));
      await stream?.done;
    },
    confirm() {
      if (position !== undefined) registry.feed.confirm(agentId, position);
    },
  };
}

function checkForward(before: Position | undefined, now: Position): void {
  if (before !== undefined && before.epoch === now.epoch && now.revision < before.revision) {
    throw new Error(`the feed went back from ${before.revision} to ${now.revision}`);
  }
}
