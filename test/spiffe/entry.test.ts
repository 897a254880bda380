import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import type { EntryDraft } from '../../spiffe/entry.ts';
import { checkEntryDraft, composeEntry, entryLimits, isConversionFault, isExpired, matchKey } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { Selector } from '../../spiffe/selector.ts';
import { refusal } from './refusal.ts';

const td = 'example.org' as TrustDomain;
const good: EntryDraft = {
  id: 'web-1',
  spiffeId: 'spiffe://example.org/web' as SpiffeId,
  parentId: 'spiffe://example.org/spire/agent/a' as SpiffeId,
  selectors: ['unix:uid:1', 'unix:gid:2'] as unknown as Selector[],
  x509SvidTtlSeconds: 0,
  jwtSvidTtlSeconds: 60,
  federatesWith: ['other.org'] as unknown as TrustDomain[],
  dnsNames: ['web.example.org', '*.web.example.org'],
  admin: false,
  downstream: false,
  storeSvid: false,
  hint: 'web',
  disableX509SvidPrefetch: false,
  jwtSvidIncludeJti: false,
  forbidCache: false,
  expiresAt: 1_900_000_000_000,
};
const selectors = (count: number): Selector[] => Array.from({ length: count }, (_, n) => `unix:uid:${n}` as Selector);
const selector = (text: string): { readonly selectors: readonly Selector[] } => ({ selectors: [text as Selector] });

describe('checkEntryDraft', () => {
  it('returns the draft as it was, frozen', () => {
    const checked = checkEntryDraft(good, td);
    expect(checked).toEqual(good);
    expect([checked, checked.selectors, checked.dnsNames, checked.federatesWith].every(Object.isFrozen)).toBe(true);
  });

  it.each([
    ['no id', { id: undefined }, { id: undefined }],
    ['an empty id', { id: '' }, { id: undefined }],
    ['a federated trust domain twice', { federatesWith: ['a', 'b', 'a'] }, { federatesWith: ['a', 'b'] }],
    ['its own trust domain among the federated', { federatesWith: ['example.org'] }, {}],
    ['the server as parent', { parentId: 'spiffe://example.org/spire/server' }, {}],
    ['another workload as parent', { parentId: 'spiffe://example.org/node' }, {}],
    ['no end', { expiresAt: undefined }, {}],
    ['the longest hint', { hint: 'é'.repeat(512) }, {}],
    ['the longest id', { id: 'a'.repeat(255) }, {}],
    ['the longest lifetime', { x509SvidTtlSeconds: 2_147_483_647 }, {}],
    ['the most selectors', { selectors: selectors(entryLimits.selectors) }, {}],
    ['a stored SVID', { storeSvid: true }, {}],
  ])('accepts %s', (_, change, expected) => {
    const draft = { ...good, ...change } as EntryDraft;
    expect(checkEntryDraft(draft, td)).toEqual({ ...draft, ...expected });
  });

  it.each<[string, object, string, string]>([
    [
      'parent of another trust domain',
      { parentId: 'spiffe://example.org.evil/a' },
      'invalid entry.parent-id',
      'invalid parent ID: "spiffe://example.org.evil/a" is not a member of trust domain "example.org"',
    ],
    [
      'parent without path',
      { parentId: 'spiffe://example.org' },
      'invalid entry.parent-id',
      'invalid parent ID: "spiffe://example.org" is not a member of trust domain "example.org"; path is empty',
    ],
    [
      'parent that is no ID',
      { parentId: 'spiffe://example.org/a//b' },
      'invalid entry.parent-id',
      'invalid parent ID: path cannot contain empty segments',
    ],
    [
      'SPIFFE ID of another trust domain',
      { spiffeId: 'spiffe://other.org/a' },
      'invalid entry.spiffe-id',
      'invalid spiffe ID: "spiffe://other.org/a" is not a member of trust domain "example.org"',
    ],
    [
      'SPIFFE ID without path',
      { spiffeId: 'spiffe://example.org' },
      'invalid entry.spiffe-id',
      'invalid spiffe ID: "spiffe://example.org" is not a member of trust domain "example.org"; path is empty',
    ],
    [
      'SPIFFE ID of an agent',
      { spiffeId: 'spiffe://example.org/spire/agent/a' },
      'invalid entry.spiffe-id',
      'invalid spiffe ID: "spiffe://example.org/spire/agent/a" is not a workload in trust domain "example.org"; path is reserved',
    ],
    [
      'SPIFFE ID of the server',
      { spiffeId: 'spiffe://example.org/spire/server' },
      'invalid entry.spiffe-id',
      'invalid spiffe ID: "spiffe://example.org/spire/server" is not a workload in trust domain "example.org"; path is reserved',
    ],
    [
      'SPIFFE ID that climbs',
      { spiffeId: 'spiffe://example.org/../a' },
      'invalid entry.spiffe-id',
      'invalid spiffe ID: path cannot contain dot segments',
    ],
    ['no selectors', { selectors: [] }, 'invalid entry.selectors.missing', 'selector list is empty'],
    ['selector without type', selector(':a'), 'invalid entry.selector', 'missing selector type'],
    ['selector without value', selector('unix:'), 'invalid entry.selector', 'missing selector value'],
    ['selector with a zero byte', selector('unix:a\0b'), 'invalid entry.text', 'text contains a zero byte or is not Unicode'],
    [
      'selector with half a character',
      selector('unix:\ud800'),
      'invalid entry.text',
      'text contains a zero byte or is not Unicode',
    ],
    ['selector too long', selector(`unix:${'a'.repeat(8188)}`), 'invalid entry.selectors.size', 'selectors are too long'],
    [
      'selectors too long together',
      { selectors: Array.from({ length: 40 }, (_, n) => `unix:${'a'.repeat(8000)}${n}`) },
      'invalid entry.selectors.size',
      'selectors are too long',
    ],
    ['T-A15 too many selectors', { selectors: selectors(1001) }, 'invalid entry.selectors.count', 'more than 1000 selectors'],
    ['selector twice', { selectors: ['a:1', 'b:1', 'a:1'] }, 'exists entry.selectors.repeated', 'a selector is given twice'],
    ['DNS name', { dnsNames: ['a..b'] }, 'invalid entry.dns-name', 'invalid DNS name: empty label'],
    ['DNS name twice', { dnsNames: ['a', 'a'] }, 'exists entry.dns-name.repeated', 'a DNS name is given twice'],
    [
      'too many DNS names',
      { dnsNames: Array.from({ length: 257 }, (_, n) => `n${n}`) },
      'invalid entry.dns-name.count',
      'more than 256 DNS names',
    ],
    [
      'federated name',
      { federatesWith: ['Other.org'] },
      'invalid entry.federates-with',
      'invalid federated trust domain: trust domain characters are limited to lowercase letters, numbers, dots, ' +
        'dashes, and underscores',
    ],
    [
      'too many federated names',
      { federatesWith: Array.from({ length: 1001 }, (_, n) => `n${n}`) },
      'invalid entry.federates-with.count',
      'more than 1000 federated trust domains',
    ],
    [
      'WLAPI-14 hint of 1026 bytes',
      { hint: 'é'.repeat(513) },
      'invalid entry.hint.length',
      'hint is too long, max length is 1024 characters',
    ],
    ['hint with a zero byte', { hint: '\0' }, 'invalid entry.text', 'text contains a zero byte or is not Unicode'],
    [
      'negative X.509 lifetime',
      { x509SvidTtlSeconds: -1 },
      'invalid entry.x509-svid-ttl',
      'invalid registration entry: X509SvidTtl is not set',
    ],
    [
      'fractional X.509 lifetime',
      { x509SvidTtlSeconds: 0.5 },
      'invalid entry.x509-svid-ttl',
      'invalid registration entry: X509SvidTtl is not set',
    ],
    [
      'negative JWT lifetime',
      { jwtSvidTtlSeconds: -1 },
      'invalid entry.jwt-svid-ttl',
      'invalid registration entry: JwtSvidTtl is not set',
    ],
    [
      'lifetime beyond 32 bits',
      { jwtSvidTtlSeconds: 2 ** 31 },
      'invalid entry.jwt-svid-ttl',
      'invalid registration entry: JwtSvidTtl is not set',
    ],
    [
      'end that is no instant',
      { expiresAt: Number.NaN },
      'invalid entry.expires-at',
      'invalid registration entry: expiry is not an instant',
    ],
    [
      'stored SVID of mixed selectors',
      { storeSvid: true, selectors: ['a:1', 'b:1'] },
      'invalid entry.store-svid.selector-types',
      'invalid registration entry: selector types must be the same when store SVID is enabled',
    ],
    [
      'stored SVID without prefetch',
      { storeSvid: true, disableX509SvidPrefetch: true },
      'invalid entry.store-svid.prefetch',
      'invalid registration entry: X509-SVID prefetch cannot be disabled when store SVID is enabled',
    ],
    ['id of 256', { id: 'a'.repeat(256) }, 'invalid entry.id.length', 'invalid registration entry: entry ID too long'],
    [
      'id with a slash',
      { id: 'a/b' },
      'invalid entry.id.characters',
      'invalid registration entry: entry ID contains invalid characters',
    ],
    [
      'id with a line end',
      { id: 'a\n' },
      'invalid entry.id.characters',
      'invalid registration entry: entry ID contains invalid characters',
    ],
  ])('refuses: %s', (_, change, outcome, message) => {
    const check = (): unknown => checkEntryDraft({ ...good, ...change }, td);
    expect(refusal(check)).toBe(outcome);
    expect(check).toThrow(expect.objectContaining({ message }));
  });

  it.each([
    ['entry.parent-id', true],
    ['entry.selector', true],
    ['entry.dns-name', true],
    ['entry.dns-name.count', true],
    ['entry.hint.length', true],
    ['entry.selectors.missing', true],
    ['entry.selectors.repeated', false],
    ['entry.dns-name.repeated', false],
    ['entry.x509-svid-ttl', false],
    ['entry.store-svid.prefetch', false],
    ['entry.id.length', false],
  ])('%s is a fault of conversion: %s', (reason, expected) => {
    expect(isConversionFault(new SpiffeError('invalid', reason, ''))).toBe(expected);
  });
});

describe('entries', () => {
  const entry = composeEntry(good, { id: 'x', createdAt: 1000, revisionNumber: 3 });

  it('takes id, creation and revision from the server', () => {
    expect(entry).toEqual({ ...good, id: 'x', createdAt: 1000, revisionNumber: 3 });
    expect(Object.isFrozen(entry)).toBe(true);
  });

  it.each([
    [1_899_999_999_999, false],
    [1_900_000_000_000, true],
    [1_900_000_000_001, true],
  ])('has ended at %d: %s', (now, expected) => {
    expect(isExpired(entry, now)).toBe(expected);
  });

  it('without an end never ends', () => {
    expect(isExpired({ expiresAt: undefined }, Number.MAX_SAFE_INTEGER)).toBe(false);
  });
});

describe('matchKey', () => {
  it('ignores the order of selectors and everything but names and selectors', () => {
    const other = { ...good, id: 'other', hint: 'other', selectors: good.selectors.toReversed() };
    expect(matchKey(other)).toBe(matchKey(good));
  });

  it('is another for every other SPIFFE ID, parent or set of selectors', () => {
    const id = fc.constantFrom('spiffe://a/b', 'spiffe://a/c') as fc.Arbitrary<SpiffeId>;
    const some = fc.uniqueArray(fc.constantFrom('a:1', 'a:1\n', 'a:1","a:2', 'a:2', 'b:1') as fc.Arbitrary<Selector>);
    const parts = fc.record({ spiffeId: id, parentId: id, selectors: some });
    fc.assert(
      fc.property(parts, parts, (a, b) => {
        const same =
          a.spiffeId === b.spiffeId &&
          a.parentId === b.parentId &&
          a.selectors.toSorted().join('|') === b.selectors.toSorted().join('|');
        expect(matchKey(a) === matchKey(b)).toBe(same);
      }),
    );
  });
});
