import { describe, expect, it } from 'vitest';
import { observeFederation } from '../../../server/federation/observe.ts';
import type { RefreshState } from '../../../server/federation/refresh.ts';
import type { RelationshipRecord } from '../../../server/store/store.ts';
import { createLogger } from '../../../runtime/log.ts';
import { createMetrics } from '../../../runtime/metrics.ts';
import { composeBundle, emptyBundle, readX509Authority, type Bundle } from '../../../spiffe/bundle.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseTrustDomain, type TrustDomain } from '../../../spiffe/id.ts';
import { testAuthority } from '../../help/agent-server.ts';
import { createTestClock } from '../../help/clock.ts';

const far = parseTrustDomain('far.example');
const near = parseTrustDomain('near.example');
const certificate = readX509Authority(testAuthority('far').certificate);

function createWorld() {
  const clock = createTestClock();
  const lines: Record<string, unknown>[] = [];
  const log = createLogger({ clock, write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>) });
  const metrics = createMetrics();
  const states = new Map<TrustDomain, Partial<RefreshState>>();
  const bundles = new Map<TrustDomain, Bundle>();
  const records = [far, near].map((trustDomain, row): RelationshipRecord => ({ trustDomain, endpointUrl: `https://${trustDomain}/`, profile: { type: 'https_web' }, row, createdAt: clock.now(), refreshedAt: undefined }));
  const observe = observeFederation(clock, log, metrics, {
    relationships: { all: () => records },
    bundles,
    state: (name) => ({ refreshedAt: undefined, attemptedAt: undefined, failures: 0, reason: '', nextAt: 0, ...states.get(name) }),
  });
  const valueOf = (name: string): number => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(metrics.text())?.[1]);
  return { clock, lines, metrics, states, bundles, records, observe, valueOf };
}

describe('observeFederation', () => {
  it('FED-29: every fetch leaves a line, and is counted', () => {
    const { lines, records, observe, valueOf } = createWorld();
    const [relationship] = records as [RelationshipRecord, RelationshipRecord];
    const bundle = composeBundle({ ...emptyBundle(far), x509Authorities: [certificate], sequence: 7n });
    observe.refreshed(relationship, bundle, undefined, 12.4);
    observe.refreshed(relationship, bundle, bundle, 3);
    observe.failed(relationship, new SpiffeError('unavailable', 'bundle-fetch.unreachable', 'nobody there'), 2, 5_000);
    observe.failed(relationship, new SpiffeError('conflict', 'relationship.sequence-behind', 'behind'), 3, 1);
    expect(lines).toMatchObject([
      { level: 'info', event: 'federation.fetched', trustDomain: far, bundle: '7', outcome: 'changed', ms: 12 },
      { level: 'info', event: 'federation.fetched', outcome: 'unchanged' },
      { level: 'warn', event: 'federation.failed', trustDomain: far, path: 'https://far.example/', reason: 'bundle-fetch.unreachable', attempt: 2 },
      { level: 'warn', event: 'federation.failed', reason: 'relationship.sequence-behind' },
    ]);
    for (const outcome of ['changed', 'unchanged', 'failed', 'refused']) {
      expect(valueOf(`steeple_server_bundle_refreshes_total\\{outcome="${outcome}"\\}`)).toBe(1);
    }
  });

  it('T-17: a bundle that comes without keys is a warning, once', () => {
    const { lines, records, observe } = createWorld();
    const [relationship] = records as [RelationshipRecord, RelationshipRecord];
    const before = composeBundle({ ...emptyBundle(far), x509Authorities: [certificate] });
    observe.refreshed(relationship, emptyBundle(far), before, 1);
    observe.refreshed(relationship, emptyBundle(far), emptyBundle(far), 1);
    expect(lines.map(({ level, event }) => `${String(level)} ${String(event)}`)).toEqual(['warn federation.revoked', 'info federation.fetched']);
  });

  it('tells of all relationships together, without their names', async () => {
    const { clock, states, bundles, metrics, valueOf } = createWorld();
    const startAt = clock.now();
    bundles.set(far, emptyBundle(far));
    states.set(far, { refreshedAt: startAt + 30_000, failures: 3 });
    await clock.advance(90_000);
    expect([valueOf('steeple_server_relationships'), valueOf('steeple_server_relationships_failing'), valueOf('steeple_server_relationships_pending')]).toEqual([2, 1, 1]);
    // What never came counts from when it was asked for.
    expect(valueOf('steeple_server_bundle_age_seconds')).toBe(90);
    states.set(near, { refreshedAt: clock.now() });
    expect(valueOf('steeple_server_bundle_age_seconds')).toBe(60);
    expect(metrics.text()).not.toMatch(/far\.example|near\.example/);
  });
});
