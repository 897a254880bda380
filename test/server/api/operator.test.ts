import { describe, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import type { AuditEvent } from '../../../server/audit/event.ts';
import { operatorCaller, unary } from '../../help/api.ts';
import { openApiWorld } from '../../help/api-world.ts';

const { 'steeple.operator.v1.Operator': service } = loadServices('steeple.operator.v1.Operator');

const note = (subject: string): AuditEvent => ({ type: 'call.denied', at: 1, actor: 'stranger:x', call: '/a', outcome: 'refused', reason: 'access.denied', subject, detail: { n: 1 } });

describe('the record', () => {
  it('searches newest first, by what the fields say', async () => {
    const { operatorApi, store } = await openApiWorld();
    await store.recordAudit([note('a'), note('b')]);
    const found = await unary(service.SearchAudit, operatorApi.SearchAudit, { type: 'call.denied', page_size: 1 });
    expect(found.events.map(({ subject, detail }) => [subject, detail])).toEqual([['b', '{"n":1}']]);
    const rest = await unary(service.SearchAudit, operatorApi.SearchAudit, { type: 'call.denied', page_size: 1, page_token: found.next_page_token });
    expect(rest.events.map(({ subject }) => subject)).toEqual(['a']);
  });

  it('tails: the newest first seen, then each as it is recorded', async () => {
    const { operatorApi, store, clock } = await openApiWorld();
    await store.recordAudit([note('a'), note('b'), note('c')]);
    const stop = new AbortController();
    const tail = operatorApi.TailAudit({ last: 2 }, operatorCaller, stop.signal)[Symbol.asyncIterator]();
    const subjects = [(await tail.next()).value?.subject, (await tail.next()).value?.subject];
    expect(subjects).toEqual(['b', 'c']);
    const next = tail.next();
    await store.recordAudit([note('d')]);
    await clock.runUntil(() => false, 1_000).catch(() => undefined);
    expect((await next).value?.subject).toBe('d');
    stop.abort(new Error('left'));
    await clock.advance(1_000);
    expect((await tail.next()).done).toBe(true);
  });

  it('finds a credential by its serial, whatever its case', async () => {
    const { operatorApi, store } = await openApiWorld();
    const page = await store.listCredentials({}, 10, '');
    expect(page.items).toEqual([]);
    await expect(unary(service.GetCredential, operatorApi.GetCredential, { id: 'AB' })).rejects.toMatchObject({ kind: 'missing' });
  });

  it('refuses a kind that is none', async () => {
    const { operatorApi } = await openApiWorld();
    await expect(unary(service.ListCredentials, operatorApi.ListCredentials, { kind: 'tea' })).rejects.toMatchObject({ reason: 'proto.enum.unknown' });
  });
});

describe('authorities', () => {
  it('spire-wire 10: shown, prepared, activated; what was active is old', async () => {
    const { operatorApi } = await openApiWorld();
    const list = async () => (await unary(service.ListAuthorities, operatorApi.ListAuthorities, {})).authorities.filter(({ kind }) => kind === 'x509');
    const [first] = await list();
    expect(first?.state).toBe('active');
    const prepared = await unary(service.PrepareAuthority, operatorApi.PrepareAuthority, { kind: 'x509' });
    expect(prepared.state).toBe('prepared');
    await expect(unary(service.ActivateAuthority, operatorApi.ActivateAuthority, { kind: 'x509', id: 'unknown' })).rejects.toMatchObject({ kind: 'invalid' });
    const active = await unary(service.ActivateAuthority, operatorApi.ActivateAuthority, { kind: 'x509', id: prepared.id });
    expect(active.state).toBe('active');
    const states = new Map((await list()).map(({ id, state }) => [id, state]));
    expect(states.get(prepared.id)).toBe('active');
    expect(states.get(first?.id ?? '')).toBe('old');
  });
});

describe('status', () => {
  it('tells the position and what is unmet', async () => {
    const { operatorApi, store } = await openApiWorld();
    const status = await unary(service.GetStatus, operatorApi.GetStatus, {});
    expect(status).toMatchObject({ trust_domain: 'example.org', epoch: store.position.epoch, revision: String(store.position.revision), unmet_conditions: [] });
    expect(status).toMatchObject({ relationships: '3', relationships_failing: '2', relationships_pending: '1' });
  });
});
