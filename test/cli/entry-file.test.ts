import { describe, expect, it } from 'vitest';
import { entryFileItems } from '../../cli/entry-file.ts';

const least = { spiffeId: 'spiffe://example.org/a', parentId: 'spiffe://example.org/node', selectors: ['unix:uid:0'] };

describe('entry files', () => {
  it('hold a list, or a list under entries', () => {
    expect(entryFileItems([least])).toEqual([least]);
    expect(entryFileItems({ entries: [least, least] })).toEqual([least, least]);
  });

  it('take every field in our words', () => {
    const item = {
      ...least,
      id: 'e1',
      x509SvidTtlSeconds: 60,
      jwtSvidTtlSeconds: 30,
      federatesWith: ['other.test'],
      dnsNames: ['a.example'],
      hint: 'h',
      expiresAt: '2030-01-31T12:00:00Z',
      admin: true,
      downstream: false,
      storeSvid: true,
      disableX509SvidPrefetch: true,
      jwtSvidIncludeJti: true,
      forbidCache: true,
    };
    const { x509SvidTtlSeconds: _x, jwtSvidTtlSeconds: _j, ...rest } = item;
    expect(entryFileItems([item])).toEqual([{ ...rest, x509SvidTtl: 60, jwtSvidTtl: 30 }]);
  });

  it('take what entry show prints, so that it can be sent back', () => {
    const shown = { ...least, createdAt: '2026-01-01T00:00:00Z', revisionNumber: 3, expiresAt: null };
    expect(entryFileItems([shown])).toEqual([least]);
  });

  it("take SPIRE's words, as in its documentation", () => {
    const spire = {
      entry_id: 'e1',
      selectors: [{ type: 'unix', value: 'uid:1111' }, { type: 'k8s', value: 'pod-label:a:b' }],
      spiffe_id: 'spiffe://example.org/Blog',
      parent_id: 'spiffe://example.org/spire/agent/join_token/TokenBlog',
      ttl: 200,
      jwt_svid_ttl: 30,
      federates_with: ['spiffe://other.test'],
      dns_names: ['blog'],
      entry_expiry: 1_900_000_000,
      admin: true,
      downstream: false,
      store_svid: true,
      hint: 'h',
    };
    expect(entryFileItems({ entries: [spire] })).toEqual([
      {
        id: 'e1',
        spiffeId: 'spiffe://example.org/Blog',
        parentId: 'spiffe://example.org/spire/agent/join_token/TokenBlog',
        selectors: ['unix:uid:1111', 'k8s:pod-label:a:b'],
        x509SvidTtl: 200,
        jwtSvidTtl: 30,
        federatesWith: ['spiffe://other.test'],
        dnsNames: ['blog'],
        hint: 'h',
        expiresAt: 1_900_000_000,
        admin: true,
        downstream: false,
        storeSvid: true,
      },
    ]);
  });

  it.each<readonly [string, unknown, RegExp]>([
    ['nothing', undefined, /no list/],
    ['null', null, /no list/],
    ['text', 'entries', /no list/],
    ['entries that are no list', { entries: {} }, /no list/],
    ['an item that is no object', [least, 7], /^entry 2:/],
    ['an unknown field', [{ ...least, spiffeID: 'x' }], /^entry 1:.*spiffeID/],
    ["an unknown field in SPIRE's words", [{ spiffe_id: 'a', parent_id: 'b', selectors: [], x: 1 }], /^entry 1:/],
    ['no parent', [{ spiffeId: 'a', selectors: [] }], /parentId/],
    ['selectors as text', [{ ...least, selectors: 'unix:uid:0' }], /selectors/],
    ['a negative TTL', [{ ...least, x509SvidTtlSeconds: -1 }], /x509SvidTtlSeconds/],
    ['half a second', [{ ...least, jwtSvidTtlSeconds: 1.5 }], /jwtSvidTtlSeconds/],
    ['a TTL that no int32 holds', [{ ...least, x509SvidTtlSeconds: 2 ** 31 }], /x509SvidTtlSeconds/],
    ['text for a switch', [{ ...least, admin: 'yes' }], /admin/],
  ])('refuse %s', (_what, document, message) => {
    expect(() => entryFileItems(document)).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'cli.entry-file.shape', message: expect.stringMatching(message) }));
  });
});
