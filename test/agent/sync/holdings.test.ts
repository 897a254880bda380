import { describe, expect, it } from 'vitest';
import { createHoldings, holdingsOf, isAtLeast, noHoldings, stepped } from '../../../agent/sync/holdings.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { testEntry } from '../../help/agent-server.ts';

const at = (revision: number): { position: { epoch: string; revision: number }; committedAt: number } => ({
  position: { epoch: 'e', revision },
  committedAt: 5,
});
const bundleOf = (name: string, sequence = 0n) => composeBundle({ ...emptyBundle(parseTrustDomain(name)), sequence });

describe('holdings', () => {
  it('apply steps in order, as one', () => {
    const [a, b, c] = [testEntry('/a', ['x:1']), testEntry('/b', ['x:2']), testEntry('/c', ['x:3'])];
    const after = stepped(
      noHoldings,
      [
        { what: 'entry', entry: a },
        { what: 'entry', entry: b },
        { what: 'entry-removed', id: a.id },
        { what: 'entry', entry: c },
        { what: 'bundle', bundle: bundleOf('example.org') },
        { what: 'bundle', bundle: bundleOf('other.test') },
        { what: 'bundle-removed', trustDomain: parseTrustDomain('other.test') },
        { what: 'authority', authority: { kind: 'x509', id: 'aa', state: 'tainted', expiresAt: 9 } },
      ],
      at(7),
    );
    expect([...after.entries.keys()]).toEqual([b.id, c.id]);
    expect([...after.bundles.keys()]).toEqual(['example.org']);
    expect(after.authorities.get('x509/aa')?.state).toBe('tainted');
    expect(after.position).toEqual({ epoch: 'e', revision: 7 });
  });

  it('drop what is not among the entries still held', () => {
    const [a, b] = [testEntry('/a', ['x:1']), testEntry('/b', ['x:2'])];
    const before = holdingsOf({ position: undefined, entries: [a, b], bundles: [], authorities: [] });
    expect([...stepped(before, [{ what: 'held', ids: [b.id, 'unknown'] }], at(1)).entries.keys()]).toEqual([b.id]);
  });

  it('keep what was there untouched for whoever holds it', () => {
    const a = testEntry('/a', ['x:1']);
    const before = holdingsOf({ position: undefined, entries: [a], bundles: [bundleOf('example.org')], authorities: [] });
    stepped(before, [{ what: 'entry-removed', id: a.id }], at(1));
    expect(before.entries.size).toBe(1);
    const after = stepped(before, [{ what: 'bundle', bundle: bundleOf('example.org', 2n) }], at(2));
    // What did not change can be told by identity.
    expect(after.entries).toBe(before.entries);
    expect(after.bundles).not.toBe(before.bundles);
  });

  it('keep the identity of entries and bundles that a snapshot repeats', () => {
    const a = testEntry('/a', ['x:1']);
    const before = holdingsOf({ position: undefined, entries: [a], bundles: [bundleOf('example.org')], authorities: [] });
    const again = holdingsOf({ position: undefined, entries: [{ ...a }], bundles: [bundleOf('example.org')], authorities: [] }, before);
    expect(again.entries.get(a.id)).toBe(a);
    expect(again.bundles.get(parseTrustDomain('example.org'))).toBe(before.bundles.get(parseTrustDomain('example.org')));
    const changed = { ...a, revisionNumber: 1 };
    expect(holdingsOf({ position: undefined, entries: [changed], bundles: [], authorities: [] }, before).entries.get(a.id)).toBe(changed);
  });

  it('tell their consumer before a change is over', () => {
    const seen: [number, number][] = [];
    const owner = createHoldings(noHoldings, (now, before) => seen.push([before.entries.size, now.entries.size]));
    owner.apply([{ what: 'entry', entry: testEntry('/a', ['x:1']) }], at(1));
    expect(seen).toEqual([[0, 1]]);
    expect(owner.value.entries.size).toBe(1);
  });

  it.each([
    [{ epoch: 'e', revision: 3 }, { epoch: 'e', revision: 3 }, true],
    [{ epoch: 'e', revision: 4 }, { epoch: 'e', revision: 3 }, true],
    [{ epoch: 'e', revision: 2 }, { epoch: 'e', revision: 3 }, false],
    [{ epoch: 'f', revision: 9 }, { epoch: 'e', revision: 3 }, false],
    [undefined, { epoch: 'e', revision: 3 }, false],
  ])('compare positions of one history only: %j at least %j', (a, b, expected) => {
    expect(isAtLeast(a, b)).toBe(expected);
  });
});
