import { readFileSync } from 'node:fs';

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import {
  appendPath,
  checkPathSegment,
  composeSpiffeId,
  joinPath,
  spiffeIdFromSegments,
  isAgentId,
  isMemberOf,
  isUnderPath,
  isWorkloadId,
  parseSpiffeId,
  parseTrustDomain,
  pathOf,
  serverId,
  trustDomainFromText,
  trustDomainId,
  trustDomainOf,
} from '../../spiffe/id.ts';
import type { IdCase } from '../vectors/generate-ids.ts';
import { formatCases, idCases } from '../vectors/generate-ids.ts';
import { refusal } from './refusal.ts';

const file = readFileSync(new URL('../vectors/ids.json', import.meta.url), 'utf8');
const cases = JSON.parse(file) as readonly IdCase[];
const org = 'example.org' as TrustDomain;
const id = (text: string): SpiffeId => parseSpiffeId(text);

describe('vectors of SPIFFE IDs', () => {
  it('has not been edited by hand, and is large', () => {
    expect(file).toBe(formatCases(idCases()));
    expect(cases.length).toBeGreaterThan(2000);
    expect(new Set(cases.map((row) => row.verdict)).size).toBeGreaterThan(9);
  });

  it('ID-01 to ID-17: every text gets its verdict, and an accepted one is kept as it is', () => {
    const wrong = cases.flatMap(({ text, verdict, why }) => {
      let got = 'accept';
      try {
        if (parseSpiffeId(text) !== text) got = 'changed';
      } catch (error) {
        got = error instanceof SpiffeError && error.kind === 'invalid' ? error.reason : String(error);
      }
      return got === verdict ? [] : [{ text: text.slice(0, 80), verdict, got, why }];
    });
    expect(wrong).toEqual([]);
  });

  it('T-01: the parts of an accepted text, joined again, are that text', () => {
    for (const { text } of cases.filter((row) => row.verdict === 'accept')) {
      const parsed = id(text);
      expect(composeSpiffeId(trustDomainOf(parsed), pathOf(parsed))).toBe(text);
      expect(isMemberOf(parsed, trustDomainOf(parsed))).toBe(true);
    }
  });
});

describe('parseTrustDomain', () => {
  it.each([
    ['', 'id.trust-domain.missing'],
    ['a'.repeat(256), 'id.trust-domain.length'],
    ['example.org/a', 'id.trust-domain.characters'],
    ['spiffe://example.org', 'id.trust-domain.characters'],
    ['Example.org', 'id.trust-domain.characters'],
    ['example.org\n', 'id.trust-domain.characters'],
  ])('refuses %j', (text, reason) => {
    expect(refusal(() => parseTrustDomain(text))).toBe(`invalid ${reason}`);
  });

  it('takes 255 bytes', () => {
    expect(parseTrustDomain('a'.repeat(255))).toHaveLength(255);
  });
});

describe('trustDomainFromText', () => {
  it.each([
    ['example.org', 'example.org'],
    ['spiffe://example.org', 'example.org'],
    ['spiffe://example.org/a/b', 'example.org'],
  ])('reads %j', (text, expected) => {
    expect(trustDomainFromText(text)).toBe(expected);
  });

  it.each([
    ['http://example.org', 'id.scheme'],
    ['spiffe://example.org/', 'id.path.trailing-slash'],
    ['', 'id.trust-domain.missing'],
    ['example.org:443', 'id.trust-domain.characters'],
  ])('refuses %j', (text, reason) => {
    expect(refusal(() => trustDomainFromText(text))).toBe(`invalid ${reason}`);
  });
});

describe('composeSpiffeId', () => {
  it.each([
    ['', 'spiffe://example.org'],
    ['/a', 'spiffe://example.org/a'],
  ])('joins %j', (path, expected) => {
    expect(composeSpiffeId(org, path)).toBe(expected);
  });

  it.each([
    ['.evil', 'id.path.leading-slash'],
    ['a', 'id.path.leading-slash'],
    ['/', 'id.path.trailing-slash'],
    ['/a/../b', 'id.path.dot-segment'],
    [`/${'a'.repeat(2048)}`, 'id.length'],
  ])('refuses the path %j', (path, reason) => {
    expect(refusal(() => composeSpiffeId(org, path))).toBe(`invalid ${reason}`);
  });
});

describe('membership', () => {
  it.each([
    ['spiffe://example.org', true],
    ['spiffe://example.org/a', true],
    ['spiffe://example.org.evil/a', false],
    ['spiffe://example.or/a', false],
    ['spiffe://xexample.org/a', false],
  ])('T-02: %s is of example.org: %s', (text, expected) => {
    expect(isMemberOf(id(text), org)).toBe(expected);
  });

  it.each([
    ['/web', '/web', true],
    ['/web/a', '/web', true],
    ['/web-admin', '/web', false],
    ['/we', '/web', false],
    ['', '/web', false],
    ['/a', '', true],
  ])('T-02: %j is under %j: %s', (path, prefix, expected) => {
    expect(isUnderPath(composeSpiffeId(org, path), prefix)).toBe(expected);
  });

  it.each([
    ['', false, false],
    ['/web', true, false],
    ['/spire', false, false],
    ['/spire/server', false, false],
    ['/spire/agent', false, false],
    ['/spire/agent/a', false, true],
    ['/spire/other', false, false],
    ['/spire-web', true, false],
    ['/a/spire/agent/b', true, false],
  ])('%j may be a workload %s, an agent %s', (path, workload, agent) => {
    expect([isWorkloadId(composeSpiffeId(org, path)), isAgentId(composeSpiffeId(org, path))]).toEqual([workload, agent]);
  });

  it('names the trust domain and its server', () => {
    expect([trustDomainId(org), serverId(org)]).toEqual(['spiffe://example.org', 'spiffe://example.org/spire/server']);
  });
});

it('agrees with the grammar of the standard on any text', () => {
  const grammar = /^spiffe:\/\/([a-z0-9._-]{1,255})((?:\/(?!\.{1,2}(?:\/|$))[A-Za-z0-9._-]+)*)$/;
  const part = fc.stringMatching(/^[a-zA-Z0-9._%:@/ -]{0,12}$/);
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.tuple(part, part).map(([a, b]) => `spiffe://${a}/${b}`)), (text) => {
      const accepted = refusal(() => parseSpiffeId(text)) === 'accepted';
      expect(accepted).toBe(grammar.test(text) && text.length <= 2048);
    }),
    { numRuns: 2000 },
  );
});

describe('segments and paths', () => {
  const id = parseSpiffeId('spiffe://example.org/a');

  it('compose IDs', () => {
    expect(spiffeIdFromSegments(org, 'ns', 'x', 'web-1')).toBe('spiffe://example.org/ns/x/web-1');
    expect(spiffeIdFromSegments(org)).toBe('spiffe://example.org');
    expect(joinPath()).toBe('');
    expect(joinPath('a', 'b')).toBe('/a/b');
    expect(appendPath(id, '/b/c')).toBe('spiffe://example.org/a/b/c');
    expect(appendPath(parseSpiffeId('spiffe://example.org'), '/b')).toBe('spiffe://example.org/b');
    expect(appendPath(id, '')).toBe(id);
  });

  it.each([
    ['a/b', 'id.path.characters'],
    ['', 'id.path.empty-segment'],
    ['..', 'id.path.dot-segment'],
    ['.', 'id.path.dot-segment'],
    ['%2e', 'id.path.characters'],
    ['ü', 'id.path.characters'],
  ])('refuse the segment %j', (segment, reason) => {
    expect(refusal(() => checkPathSegment(segment))).toBe(`invalid ${reason}`);
    expect(refusal(() => spiffeIdFromSegments(org, 'x', segment))).toBe(`invalid ${reason}`);
    expect(refusal(() => joinPath(segment))).toBe(`invalid ${reason}`);
  });

  it.each([
    ['b', 'id.path.leading-slash'],
    ['/', 'id.path.trailing-slash'],
    ['/../b', 'id.path.dot-segment'],
    [`/${'x'.repeat(2048)}`, 'id.length'],
  ])('refuse to append %j', (path, reason) => {
    expect(refusal(() => appendPath(id, path))).toBe(`invalid ${reason}`);
  });
});
