import { describe, expect, it } from 'vitest';
import { createTroublemaker, type Step, troubles } from '../../../client/testing/contrary.ts';
import { FakeWorkloadApi } from '../../../client/testing/fake-workload-api.ts';
import { type Diagnostic, diagnosticsChannel, WorkloadApi, type X509Context } from '../../../client/index.ts';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { granted } from '../../help/workload-api.ts';
import { testAuthority } from '../../help/agent-server.ts';
import { until } from '../../help/until.ts';

const update = { ...granted(testAuthority(), 'spiffe://example.org/web'), federated_bundles: {} };
const kindsOf = (seed: number): string => {
  const maker = createTroublemaker({ seed, likelihood: 0.9 });
  return Array.from({ length: 20 }, () => maker.x509Steps(update).map((step) => Object.keys(step).join()).join(' ')).join(';');
};

describe('trouble', () => {
  it('is the same for the same seed, and not for another', () => {
    expect(kindsOf(1)).toBe(kindsOf(1));
    expect(kindsOf(1)).not.toBe(kindsOf(2));
  });

  it('ends: no stream gets more than a few at once, and none after it broke', () => {
    const maker = createTroublemaker({ seed: 3, likelihood: 0.99 });
    const plans: (readonly Step<unknown>[])[] = Array.from({ length: 300 }, () => maker.x509Steps(update));
    expect(Math.max(...plans.map((plan) => plan.length))).toBeLessThanOrEqual(4);
    for (const plan of plans) expect(plan.slice(0, -1).some((step) => 'drop' in step || 'refuse' in step)).toBe(false);
  });

  it.each(troubles.filter((trouble) => !['drop', 'refuse', 'delay', 'stale', 'duplicates'].includes(trouble)))('%s is refused by the library, with a word', async (trouble) => {
    const seen: Diagnostic[] = [];
    const listen = (message: unknown): void => void seen.push(message as Diagnostic);
    subscribe(diagnosticsChannel, listen);
    const fake = await FakeWorkloadApi.start();
    const api = new WorkloadApi({ address: fake.address });
    const stop = new AbortController();
    try {
      fake.contrary({ seed: 5, troubles: [trouble], likelihood: 0.9 });
      fake.grant('/web');
      const { value } = (await api.watchX509Context(stop.signal).next()) as IteratorResult<X509Context, undefined>;
      expect(value?.svids[0]?.serial).toBe(fake.svids[0]!.serial);
      await until(() => seen.length > 0);
      expect(seen.every(({ event, error }) => event === 'message-refused' && error instanceof Error)).toBe(true);
    } finally {
      unsubscribe(diagnosticsChannel, listen);
      stop.abort();
      api.close();
      await fake.close();
    }
  });
});
