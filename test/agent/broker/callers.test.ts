import { describe, expect, it } from 'vitest';
import { createCallCounter, createCallers, type AllowedCaller } from '../../../agent/broker/callers.ts';
import type { BrokerCallerConfig } from '../../../agent/broker/config.ts';
import type { WorkloadUpdate } from '../../../agent/svids/cache.ts';
import type { Attestation } from '../../../agent/workload/attest.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { parseSpiffeId, parseTrustDomain } from '../../../spiffe/id.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { testEntry, trustDomain } from '../../help/agent-server.ts';
import { createTestClock } from '../../help/clock.ts';

const mesh = parseSpiffeId('spiffe://example.org/mesh');
const [shop, bank] = [parseTrustDomain('shop.test'), parseTrustDomain('bank.test')];

function callerWith(more: Partial<BrokerCallerConfig> = {}): AllowedCaller {
  return createCallers([{ spiffe_id: mesh, references: ['pid', 'kubernetes'], ...more }], trustDomain)(mesh);
}
const attested = (...selectors: readonly string[]): Attestation => ({
  selectors: new Set(selectors.map(parseSelector)),
  given: new Map(),
  reports: [],
  incomplete: false,
  pending: undefined,
  rechecks: [],
});
const web = testEntry('/pay/web', ['a:1'], { federatesWith: [shop] });
const evil = testEntry('/pay-evil', ['a:1'], { federatesWith: [bank] });
const bundles = new Map([trustDomain, shop, bank].map((name) => [name, composeBundle(emptyBundle(name))]));
const update: WorkloadUpdate = { entries: [web, evil], identities: [], bundles, committedAt: undefined };

it.each(['spiffe://example.org/other', 'spiffe://example.org/mesh/x', 'spiffe://other.test/mesh'])('BRK-15: %s is not on the list', (text) => {
  const find = createCallers([{ spiffe_id: mesh, references: ['pid'] }], trustDomain);
  expect(() => find(parseSpiffeId(text))).toThrow(expect.objectContaining({ kind: 'denied', reason: 'broker.caller.unknown' }));
});

describe('BRK-16: a caller may be held', () => {
  it('to kinds of references', () => {
    const caller = callerWith({ references: ['pid'] });
    caller.requireKind('pid');
    expect(() => caller.requireKind('kubernetes')).toThrow(expect.objectContaining({ kind: 'denied', reason: 'broker.caller.reference' }));
  });

  it('to audiences, every one of those it asks for', () => {
    const caller = callerWith({ audiences: ['db', 'web'] });
    caller.requireAudience(['web', 'db']);
    callerWith().requireAudience(['anything']);
    expect(() => caller.requireAudience(['db', 'bank'])).toThrow(expect.objectContaining({ reason: 'broker.caller.audience' }));
    expect(() => caller.requireAudience(['DB'])).toThrow(expect.objectContaining({ reason: 'broker.caller.audience' }));
  });

  it.each([
    ['attested to be in it', ['k8s:ns:shop'], true],
    ['in another', ['k8s:ns:shop-2'], false],
    ['in none', ['unix:uid:0'], false],
    ['that only has its name in a label', ['k8s:pod-label:ns:shop', 'docker:label:k8s:ns:shop'], false],
  ])('to a namespace: a workload %s', (_which, selectors, allowed) => {
    const caller = callerWith({ namespaces: ['shop'] });
    const narrowed = (): WorkloadUpdate => caller.narrow(attested(...selectors), update);
    if (allowed) expect(narrowed()).toBe(update);
    else expect(narrowed).toThrow(expect.objectContaining({ kind: 'denied', reason: 'broker.caller.namespace' }));
  });

  it('to identities, by whole segments of their paths, and to the bundles that those need', () => {
    const caller = callerWith({ spiffe_ids: [parseSpiffeId('spiffe://example.org/pay')] });
    const narrowed = caller.narrow(attested('a:1'), update);
    expect(narrowed.entries).toEqual([web]);
    expect([...narrowed.bundles.keys()]).toEqual([trustDomain, shop]);
    expect(callerWith({ spiffe_ids: [web.spiffeId] }).narrow(attested('a:1'), update).entries).toEqual([web]);
    const none = callerWith({ spiffe_ids: [parseSpiffeId('spiffe://example.org/pay/web/x')] });
    expect(() => none.narrow(attested('a:1'), update)).toThrow(expect.objectContaining({ reason: 'broker.caller.identity' }));
  });
});

describe('calls', () => {
  it('are so many in progress for one caller, whatever others do', () => {
    const counter = createCallCounter(createTestClock(), { calls: 2, callsPerSecond: 100 });
    const other = parseSpiffeId('spiffe://example.org/other');
    counter.enter(mesh);
    counter.enter(mesh);
    expect(() => counter.enter(mesh)).toThrow(expect.objectContaining({ kind: 'limited', reason: 'broker.caller.calls' }));
    counter.enter(other);
    counter.leave(mesh);
    counter.enter(mesh);
  });

  it('are so many a second', async () => {
    const clock = createTestClock();
    const counter = createCallCounter(clock, { calls: 100, callsPerSecond: 4 });
    const make = (): void => {
      counter.enter(mesh);
      counter.leave(mesh);
    };
    for (let call = 0; call < 4; call += 1) make();
    expect(make).toThrow(expect.objectContaining({ kind: 'limited', reason: 'broker.caller.rate' }));
    await clock.advance(500);
    make();
    make();
    expect(make).toThrow(expect.objectContaining({ reason: 'broker.caller.rate' }));
  });
});
