/**
 * Real stores for tests: in memory, or a file in a directory that goes with the test; and drafts to fill them with.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { onTestFinished } from 'vitest';

import { openSqliteStore } from '../../server/store/sqlite.ts';
import type { AgentRecord, CredentialIntent, Scope, Store } from '../../server/store/store.ts';
import { checkEntryDraft } from '../../spiffe/entry.ts';
import type { EntryDraft } from '../../spiffe/entry.ts';
import { composeSpiffeId, parseSpiffeId, parseTrustDomain } from '../../spiffe/id.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { createTestClock } from './clock.ts';
import type { Clock } from '../../runtime/clock.ts';

export const exampleOrg = parseTrustDomain('example.org');

export interface TestStoreOptions {
  readonly clock?: Clock;
  /** In memory when it is absent. */
  readonly path?: string;
}

/** Closed when the test ends. */
export async function openTestStore({ clock = createTestClock(), path = ':memory:' }: TestStoreOptions = {}): Promise<Store> {
  const store = await openSqliteStore({ path, trustDomain: exampleOrg, clock });
  onTestFinished(() => store.close());
  return store;
}

/** A path for a store in a directory of its own, which is removed when the test ends. */
export async function storePath(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'steeple-store-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  return join(directory, 'store.db');
}

export function scopeAt(at: number, actor = 'operator:0/1'): Scope {
  return { actor, call: '/test/Call', at };
}

/** `/web` in the trust domain of the tests. */
export function idOf(path: string): SpiffeId {
  return composeSpiffeId(exampleOrg, path);
}

export function agentId(name: string): SpiffeId {
  return idOf(`/spire/agent/test/${name}`);
}

/** A checked draft; paths stand for SPIFFE IDs. */
export function draftOf(
  path: string,
  parentPath: string,
  selectors: readonly string[] = [`unix:path:/usr/bin${path}`],
  fields: Partial<EntryDraft> = {},
): EntryDraft {
  return checkEntryDraft(
    {
      id: undefined,
      spiffeId: parseSpiffeId(`spiffe://example.org${path}`),
      parentId: parseSpiffeId(`spiffe://example.org${parentPath}`),
      selectors: selectors.map(parseSelector),
      x509SvidTtlSeconds: 0,
      jwtSvidTtlSeconds: 0,
      federatesWith: [],
      dnsNames: [],
      admin: false,
      downstream: false,
      storeSvid: false,
      hint: '',
      disableX509SvidPrefetch: false,
      jwtSvidIncludeJti: false,
      forbidCache: false,
      expiresAt: undefined,
      ...fields,
    },
    exampleOrg,
  );
}

export function agentOf(name: string, at: number, fields: Partial<AgentRecord> = {}): AgentRecord {
  return {
    id: agentId(name),
    attestationType: 'test',
    serial: '1001',
    expiresAt: at + 3_600_000,
    pendingSerial: '',
    pendingExpiresAt: 0,
    selectors: [],
    canReattest: false,
    agentVersion: '',
    attestedAt: at,
    ...fields,
  };
}

let intents = 0;

export function intentOf(at: number, fields: Partial<CredentialIntent> = {}): CredentialIntent {
  intents += 1;
  return {
    id: `serial-${intents}`,
    kind: 'x509',
    spiffeId: idOf('/web'),
    entryId: '',
    agentId: '',
    authorityId: 'aa11',
    decisionId: 'decision-1',
    reason: 'entry.active',
    at,
    notBeforeAt: at - 10_000,
    expiresAt: at + 3_600_000,
    audience: [],
    digest: '00'.repeat(32),
    process: '',
    ...fields,
  };
}
