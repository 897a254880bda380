import { describe, expect, it } from 'vitest';
import type { DeliveryEvent, IdentityFiles } from '../../../agent/delivery/deliver.ts';
import { observeDeliveries } from '../../../agent/delivery/observe.ts';
import { createLogger } from '../../../runtime/log.ts';
import { createMetrics } from '../../../runtime/metrics.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createTestClock } from '../../help/clock.ts';

const full = new SpiffeError('unavailable', 'files.full', 'no space left');

function world() {
  const metrics = createMetrics();
  const lines: string[] = [];
  const log = createLogger({ clock: createTestClock(), level: 'debug', write: (line) => lines.push(line) });
  const observer = observeDeliveries(['web', 'db'], { log, metrics });
  const set = (...missing: readonly string[]): IdentityFiles =>
    ({ files: [], missing, svid: { spiffeId: 'spiffe://example.org/web', serial: 'ab', expiresAt: 0 } }) as unknown as IdentityFiles;
  return { observer, set, metrics, lines, tell: (event: DeliveryEvent) => observer.onEvent('web', event) };
}

const others = ['delivery db: nothing was delivered yet'];

describe('what is seen of deliveries', () => {
  it.each<[string, DeliveryEvent, string]>([
    ['waits for an entry', { what: 'waiting' }, 'no entry grants it an identity'],
    ['lost its identity', { what: 'lost' }, 'its identity was taken away'],
    ['has no SVID', { what: 'unsigned' }, 'there is no X509-SVID for it'],
    ['cannot be written', { what: 'failed', step: 'write', error: full }, 'its files could not be written (files.full)'],
    ['cannot be told', { what: 'failed', step: 'notify', error: full }, 'its program could not be told (files.full)'],
  ])('is that one %s, until it is delivered', (_what, event, problem) => {
    const { observer, set, tell, metrics, lines } = world();
    tell(event);
    expect(observer.problems()).toEqual([`delivery web: ${problem}`, ...others]);
    expect(metrics.text()).toContain('steeple_agent_file_deliveries_unmet 2\n');
    expect(lines.at(-1)).toMatch(/"level":"(?:warn|error)".*"name":"web"/);
    tell({ what: 'written', set: set() });
    expect(observer.problems()).toHaveLength(2);
    tell({ what: 'delivered', set: set() });
    expect(observer.problems()).toEqual(others);
    expect(metrics.text()).toContain('steeple_agent_file_deliveries_unmet 1\n');
  });

  it('is that one has no token yet', () => {
    const { observer, set, tell } = world();
    tell({ what: 'delivered', set: set('vault.jwt') });
    expect(observer.problems()).toEqual(['delivery web: no JWT-SVID for vault.jwt', ...others]);
    tell({ what: 'delivered', set: set() });
    expect(observer.problems()).toEqual(others);
  });

  it('is counted by step and outcome', () => {
    const { set, tell, metrics } = world();
    tell({ what: 'written', set: set() });
    tell({ what: 'failed', step: 'notify', error: full });
    tell({ what: 'failed', step: 'notify', error: full });
    tell({ what: 'notified', change: 'updated' });
    const text = metrics.text();
    expect(text).toContain('steeple_agent_file_deliveries_total{step="write",outcome="done"} 1');
    expect(text).toContain('steeple_agent_file_deliveries_total{step="write",outcome="failed"} 0');
    expect(text).toContain('steeple_agent_file_deliveries_total{step="notify",outcome="done"} 1');
    expect(text).toContain('steeple_agent_file_deliveries_total{step="notify",outcome="failed"} 2');
  });
});
