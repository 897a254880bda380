import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  agentIdFromMessage,
  idFromMessage,
  idToMessage,
  memberIdFromMessage,
  workloadIdFromMessage,
} from '../../../proto/convert/id.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { spiffeIds } from './arbitrary.ts';

const here = parseTrustDomain('example.org');
const message = (path: string, trust_domain = 'example.org'): { trust_domain: string; path: string } => ({ trust_domain, path });

describe('SPIFFE IDs in messages', () => {
  it('survive the way there and back', () => {
    fc.assert(
      fc.property(spiffeIds, (id) => {
        const { trust_domain = '', path = '' } = idToMessage(id);
        expect(idFromMessage({ trust_domain, path })).toBe(id);
      }),
    );
  });

  it('keep the slash with the path', () => {
    expect(idToMessage(idFromMessage(message('/a/b')))).toEqual(message('/a/b'));
    expect(idToMessage(idFromMessage(message('')))).toEqual(message(''));
  });

  it('take a trust domain written as an ID and drop its path', () => {
    expect(idFromMessage(message('/a', 'spiffe://example.org/x'))).toBe('spiffe://example.org/a');
  });

  it.each([
    [null, 'proto.id.missing', 'request must specify SPIFFE ID'],
    [undefined, 'proto.id.missing', 'request must specify SPIFFE ID'],
    [message('/a', ''), 'id.trust-domain.missing', 'trust domain is missing'],
    [
      message('/a', 'Example.org'),
      'id.trust-domain.characters',
      'trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores',
    ],
    [message('a'), 'id.path.leading-slash', 'path must have a leading slash'],
    [message('.evil/a'), 'id.path.leading-slash', 'path must have a leading slash'],
    [message('/a//b'), 'id.path.empty-segment', 'path cannot contain empty segments'],
    [message('/a/../b'), 'id.path.dot-segment', 'path cannot contain dot segments'],
    [message('/a/'), 'id.path.trailing-slash', 'path cannot have a trailing slash'],
  ])('refuse %j', (given, reason, text) => {
    expect(() => idFromMessage(given)).toThrowError(expect.objectContaining({ kind: 'invalid', reason, message: text }));
  });
});

describe('who an ID belongs to', () => {
  it.each([
    ['/web', true, true, false],
    ['/spire/agent/join_token/x', true, false, true],
    ['/spire/server', true, false, false],
    ['/spire', true, false, false],
    ['/spirex', true, true, false],
    ['/spire/agent', true, false, false],
    ['', false, false, false],
  ])('%s: member %s, workload %s, agent %s', (path, member, workload, agent) => {
    const accepted = (read: typeof memberIdFromMessage): boolean => {
      try {
        return read(message(path), here) === `spiffe://example.org${path}`;
      } catch {
        return false;
      }
    };
    expect([accepted(memberIdFromMessage), accepted(workloadIdFromMessage), accepted(agentIdFromMessage)]).toEqual([
      member,
      workload,
      agent,
    ]);
  });

  it.each([memberIdFromMessage, workloadIdFromMessage, agentIdFromMessage])('is never of another trust domain', (read) => {
    expect(() => read(message('/spire/agent/x', 'example.org.evil'), here)).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason: 'proto.id.foreign' }),
    );
  });
});
