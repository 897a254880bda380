import { describe, expect, it } from 'vitest';
import {
  type Authorize,
  authorizeAllOf,
  authorizeAny,
  authorizeAnyOf,
  authorizeExcept,
  authorizeId,
  authorizeMemberOf,
  authorizeOneOf,
  authorizePath,
  requireAuthorized,
} from '../../client/authorize.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId, parseTrustDomain } from '../../spiffe/id.ts';

const home = parseTrustDomain('example.org');
const id = parseSpiffeId;
const web = id('spiffe://example.org/web');
const admin = id('spiffe://example.org/web-admin');
const child = id('spiffe://example.org/web/1');
const evil = id('spiffe://example.org.evil/web');
const abroad = id('spiffe://other.test/web');
const everybody = [web, admin, child, evil, abroad];
const broken: Authorize = () => { throw new Error('cannot say'); };
const forgetful = (() => undefined) as unknown as Authorize;
const promising = (() => Promise.resolve(true)) as unknown as Authorize;

const letIn = (authorize: Authorize): readonly string[] =>
  everybody.filter((peer) => {
    try {
      requireAuthorized(authorize, peer);
      return true;
    } catch {
      return false;
    }
  });

describe('who is let in', () => {
  it.each<readonly [string, Authorize, readonly string[]]>([
    ['anybody', authorizeAny(), everybody],
    ['one', authorizeId(web), [web]],
    ['one of several', authorizeOneOf(web, abroad), [web, abroad]],
    ['one of none', authorizeOneOf(), []],
    ['T-02: members of a trust domain by its whole name', authorizeMemberOf(home), [web, admin, child]],
    ['T-02: a path by whole segments', authorizePath(home, '/web'), [web, child]],
    ['all of several', authorizeAllOf(authorizeMemberOf(home), authorizeOneOf(web, abroad)), [web]],
    ['all of none', authorizeAllOf(), []],
    ['any of several', authorizeAnyOf(authorizeId(admin), authorizeId(evil)), [admin, evil]],
    ['any of none', authorizeAnyOf(), []],
    ['all but', authorizeExcept(authorizeMemberOf(home), authorizePath(home, '/web')), [admin]],
    ['nobody, when nothing is returned', forgetful, []],
    ['nobody, when a promise is returned', promising, []],
    ['nobody, when it throws', broken, []],
    ['nobody, when one of all returns nothing', authorizeAllOf(authorizeAny(), forgetful), []],
    ['nobody, when any returns a promise', authorizeAnyOf(promising), []],
    ['nobody, when the exception returns nothing', authorizeExcept(authorizeAny(), forgetful), []],
  ])('%s', (_who, authorize, expected) => {
    expect(letIn(authorize)).toEqual(expected);
  });

  it.each(['web', '/web/', '/', '', '/a//b', '/a/../b'])('refuses the prefix %j, which would match too much or nothing', (prefix) => {
    expect(() => authorizePath(home, prefix)).toThrow(SpiffeError);
  });
});

describe('a refusal', () => {
  it('says who was refused', () => {
    expect(() => requireAuthorized(authorizeId(web), evil)).toThrow(
      expect.objectContaining({ kind: 'denied', reason: 'source.peer.refused', detail: { spiffeId: evil } }),
    );
  });

  it('keeps what was thrown: an error of ours as it is, another as the cause', () => {
    const own = new SpiffeError('denied', 'app.closed', 'closed today');
    expect(() => requireAuthorized(() => { throw own; }, web)).toThrow(own);
    expect(() => requireAuthorized(broken, web)).toThrow(
      expect.objectContaining({ reason: 'source.peer.refused', cause: expect.objectContaining({ message: 'cannot say' }) }),
    );
  });
});
