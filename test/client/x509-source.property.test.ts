/**
 * Whatever a contrary agent does, a source serves something that was truly granted, never anything else and never nothing, and
 * comes to the newest grant once the agent behaves.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WorkloadApi, X509Source } from '../../client/index.ts';
import { FakeWorkloadApi } from '../../client/testing/fake-workload-api.ts';
import { type Trouble, troubles } from '../../client/testing/contrary.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import { until } from '../help/until.ts';

const backoff = { firstMs: 1, factor: 1, longestMs: 1, jitter: 0 };
const other = createFakeAuthority('other.test');

type Act = 'rotate' | 'exchange-keys' | 'federate' | 'separate' | 'disconnect' | 'away';

async function ordeal(seed: number, kinds: readonly Trouble[], acts: readonly Act[]): Promise<void> {
  const fake = await FakeWorkloadApi.start();
  fake.grant('/web', '/admin');
  const granted = new Set(fake.svids.map(({ serial }) => serial));
  const api = new WorkloadApi({ address: fake.address, backoff });
  const source = await X509Source.open({ api });
  const wrong: string[] = [];
  const look = (): void => {
    const { svids } = source.context.value;
    if (!granted.has(source.svid.serial) || source.svid.spiffeId !== 'spiffe://example.org/web') wrong.push(source.svid.serial);
    if (svids.length === 0 || !svids.every(({ serial }) => granted.has(serial))) wrong.push('context');
    if ((source.x509BundleFor(fake.authority.trustDomain) ?? []).length === 0) wrong.push('bundle');
    if (source.identity.value.svid !== source.svid) wrong.push('identity');
  };
  const renew = (): void => {
    fake.rotate();
    for (const { serial } of fake.svids) granted.add(serial);
  };
  try {
    fake.contrary({ seed, troubles: kinds, delayMs: 3 });
    for (const act of acts) {
      if (act === 'rotate') renew();
      else if (act === 'exchange-keys') {
        fake.authority.rotate();
        renew();
      } else if (act === 'federate') fake.federate(other.bundle);
      else if (act === 'separate') fake.federate();
      else if (act === 'disconnect') fake.disconnect();
      else {
        await fake.suspend();
        look();
        await fake.resume();
      }
      for (let turn = 0; turn < 5; turn += 1) {
        await new Promise((resolve) => setTimeout(resolve, 1));
        look();
      }
    }
    fake.contrary(undefined);
    renew();
    const newest = fake.svids[0]!.serial;
    await until(() => {
      look();
      return source.svid.serial === newest;
    });
    expect(wrong).toEqual([]);
  } finally {
    await source.close();
    api.close();
    await fake.close();
  }
}

describe('a source of a contrary agent', () => {
  it.each(troubles)('serves the last good update and recovers: %s', async (trouble) => {
    await ordeal(7, [trouble], ['rotate', 'rotate', 'federate', 'exchange-keys', 'rotate']);
  });

  it('serves the last good update and recovers, whatever comes', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer(),
        fc.shuffledSubarray([...troubles], { minLength: 1 }),
        fc.array(fc.constantFrom<Act>('rotate', 'exchange-keys', 'federate', 'separate', 'disconnect', 'away'), { minLength: 1, maxLength: 8 }),
        ordeal,
      ),
      { numRuns: 25 },
    );
  });
});
