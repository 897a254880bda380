import { beforeEach, expect, it } from 'vitest';
import type { WorkloadEvent } from '../../agent/events/event.ts';
import type { Observer } from '../../agent/observe.ts';
import type { HeldX509Svid } from '../../agent/svids/held.ts';
import { createWitness, type WorkloadWitness } from '../../agent/witness.ts';
import type { Caller } from '../../agent/workload/caller.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId } from '../../spiffe/id.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { testEntry } from '../help/agent-server.ts';
import { ecPair } from '../help/forge.ts';
import { fakePeer } from '../help/peer.ts';

const process = { pid: 7, startTime: '1', uid: 1, gid: 1, path: '/bin/x' };
const entry = testEntry('/web', ['a:1']);
const caller: Caller = { peer: fakePeer(), process, attested: () => Promise.reject(new Error('nobody attests here')) };
const error = new SpiffeError('denied', 'issue.refused', 'no');
const svid: HeldX509Svid = { entryId: entry.id, spiffeId: entry.spiffeId, chain: [], key: ecPair().privateKey, serial: '0a', authorityId: '', notBeforeAt: 0, expiresAt: 1, renewAt: 0, entryRevision: 0 };

let recorded: Partial<WorkloadEvent>[];
let witness: WorkloadWitness;
beforeEach(() => {
  recorded = [];
  const quiet = (): void => undefined;
  const observer = { renewed: quiet, signedToken: quiet, updated: quiet, attested: quiet } as unknown as Observer;
  witness = createWitness(observer, { record: (event) => recorded.push(event) });
});

it('a first SVID is delivered, a later one rotated, each by its serial', () => {
  witness.delivered(caller, svid, undefined);
  witness.delivered(caller, { ...svid, serial: '0b' }, svid);
  expect(recorded).toMatchObject([{ kind: 'delivered', credential: '0a', entryId: entry.id, process }, { kind: 'rotated', credential: '0b' }]);
});

it('says who asked on behalf of whom, and of whom nobody asked nothing', () => {
  const behalf = { broker: parseSpiffeId('spiffe://example.org/mesh'), reference: 'pod:shop/cart-1/u' };
  const token = { entryId: entry.id, entryRevision: 0, spiffeId: entry.spiffeId, audience: ['x'], token: `e30.${Buffer.from('{"jti":"j-1"}').toString('base64url')}.s`, keyId: '', issuedAt: 0, expiresAt: 1, renewAt: 0 };
  witness.delivered({ process: undefined, behalf }, svid, undefined);
  witness.deliveredToken({ process, behalf }, token);
  witness.refused({ process: undefined, behalf: { ...behalf, reference: '' } }, '/spiffe.broker.API/FetchJWTSVID', error);
  witness.delivered(caller, svid, undefined);
  expect(recorded).toMatchObject([
    { kind: 'delivered', process: undefined, broker: behalf.broker, reference: behalf.reference, credential: '0a' },
    { kind: 'delivered', process, broker: behalf.broker, reference: behalf.reference, credential: 'j-1', reason: 'jwt' },
    { kind: 'refused', broker: behalf.broker, reference: '' },
    { kind: 'delivered', broker: '', reference: '' },
  ]);
});

it('an attestation is told with its selectors in order, bounded, and who could not say', () => {
  const selectors = new Set(Array.from({ length: 300 }, (_, i) => parseSelector(`a:${String(299 - i).padStart(3, '0')}`)));
  const reports = [{ attestor: 'unix', ms: 1, selectors: 300, omitted: [] }, { attestor: 'other', ms: 2, selectors: 0, reason: 'attest.deadline', omitted: [] }];
  witness.attested(caller, { selectors, given: new Map(), reports, incomplete: true, pending: undefined, rechecks: [] });
  expect(recorded).toMatchObject([{ kind: 'attested', reason: 'other: attest.deadline' }]);
  expect([recorded[0]?.selectors?.length, recorded[0]?.selectors?.[0]]).toEqual([256, 'a:000']);
});

it('an environment is not on record, and no number of labels hides what the kernel says', () => {
  const labels = Array.from({ length: 1_000 }, (_, i) => `docker:label:l:${String(i)}`);
  const selectors = new Set(['unix:uid:1', 'docker:env:PASSWORD=hunter2', ...labels].map(parseSelector));
  witness.attested(caller, { selectors, given: new Map(), reports: [], incomplete: false, pending: undefined, rechecks: [] });
  expect(recorded[0]?.selectors).toHaveLength(256);
  expect(recorded[0]?.selectors?.at(-1)).toBe('unix:uid:1');
  expect(JSON.stringify(recorded)).not.toContain('hunter2');
});

it.each([
  ['with a jti', { jti: 'j-1' }, 'j-1'],
  ['without one', {}, ''],
  ['with one that is no text', { jti: 7 }, ''],
])('a token %s is told by it, never by itself', (_name, claims, credential) => {
  const token = `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.secret`;
  const held = { entryId: entry.id, entryRevision: 0, spiffeId: entry.spiffeId, audience: ['x'], token, keyId: '', issuedAt: 0, expiresAt: 1, renewAt: 0 };
  witness.signedToken({ entry, process, svid: held, error: undefined });
  expect(recorded).toMatchObject([{ kind: 'delivered', credential, reason: 'jwt' }]);
  expect(JSON.stringify(recorded)).not.toContain('secret');
});

it('refusals carry the reason; a renewal that worked is nothing to record', () => {
  witness.refused(caller, '/m', error);
  witness.renewed({ entry, process, before: undefined, svid: undefined, error });
  witness.signedToken({ entry, process, svid: undefined, error });
  witness.renewed({ entry, process, before: undefined, svid, error: undefined });
  witness.closed(caller, '/m');
  expect(recorded.map(({ kind, method = '', reason = '' }) => [kind, method, reason])).toEqual([
    ['refused', '/m', 'issue.refused'],
    ['refused', '', 'issue.refused'],
    ['refused', '', 'issue.refused'],
    ['closed', '/m', ''],
  ]);
});
