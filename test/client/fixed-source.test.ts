import { describe, expect, it } from 'vitest';
import { fixedX509Source } from '../../client/fixed-source.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';

const home = createFakeAuthority('example.org');
const other = createFakeAuthority('other.test');

describe('a fixed source', () => {
  it('presents and believes what it was given, and what it is given next', async () => {
    const [first, second] = [home.x509Svid('/web'), home.x509Svid('/web')];
    const source = fixedX509Source({ svid: first, bundles: [home.bundle] });
    const seen: unknown[] = [];
    const stop = new AbortController();
    const done = (async () => {
      for await (const { svid } of source.identity.values(stop.signal)) seen.push(svid);
    })();
    expect(source.identity.value.svid).toBe(first);
    expect([source.x509BundleFor(home.trustDomain)?.length, source.x509BundleFor(other.trustDomain)]).toEqual([1, undefined]);
    await Promise.resolve();
    source.set({ svid: second, bundles: [other.bundle] });
    await new Promise((resolve) => setImmediate(resolve));
    stop.abort();
    await done;
    expect(seen).toEqual([first, second]);
    expect([source.x509BundleFor(home.trustDomain), source.x509BundleFor(other.trustDomain)?.length]).toEqual([undefined, 1]);
    expect([...source.identity.value.bundles.keys()]).toEqual(['other.test']);
  });

  it('may have no identity, as clients that present none', () => {
    expect(fixedX509Source({ bundles: [] }).identity.value.svid).toBeUndefined();
  });
});
