import { describe, expect, it } from 'vitest';
import type { AuditEvent__Output } from '../../../proto/gen/steeple/operator/v1/AuditEvent.ts';
import type { Credential__Output } from '../../../proto/gen/steeple/operator/v1/Credential.ts';
import { clockTime, credentialOf, happened, tell } from '../../../cli/demo/tell.ts';

const event = (type: string, fields: Partial<AuditEvent__Output> = {}): AuditEvent__Output => ({
  number: '1', at_ms: '0', type, actor: 'server', call: '', outcome: 'done', reason: '', subject: '', detail: '{}', ...fields,
});

describe('lines', () => {
  it('are aligned, and cannot act on the terminal', () => {
    const at = new Date(2030, 0, 31, 12, 0, 1).getTime();
    expect(happened(at, 'agent', 'attested', 'pid 42')).toBe('12:00:01  agent    attested    pid 42\n');
    expect(happened(at, 'mallory', 'refused', '\u001b[2J')).toBe('12:00:01  mallory  refused     \\u001b[2J\n');
  });
});

describe('what the record says', () => {
  it('of a process that was attested', () => {
    const detail = JSON.stringify({ pid: 42, path: '/bin/x', selectors: ['unix:gid:5', 'unix:uid:7'] });
    expect(tell(event('workload.attested', { detail }), undefined)).toEqual({ who: 'agent', what: 'attested', more: 'pid 42 /bin/x uid 7' });
  });

  it.each(['workload.delivered', 'workload.rotated'])('of an SVID that went out (%s)', (type) => {
    const delivered = event(type, { subject: 'spiffe://example.org/a', detail: JSON.stringify({ credential: '0123456789abcdef' }) });
    const expiresAt = new Date(2030, 0, 31, 12, 2).getTime();
    const credential = { expires_at_ms: String(expiresAt), reason: 'held-by-agent' } as Credential__Output;
    expect(credentialOf(delivered)).toBe('0123456789abcdef');
    expect(tell(delivered, credential)).toEqual({ who: 'server', what: 'issued', more: `serial 0123456789ab… to spiffe://example.org/a until ${clockTime(expiresAt)}: held-by-agent` });
    expect(tell(delivered, undefined)?.more).toBe('serial 0123456789ab… to spiffe://example.org/a');
  });

  it('of a refusal, with or without a process', () => {
    expect(tell(event('workload.refused', { detail: '{"pid":9,"path":"/x"}', reason: 'workload.no-identity' }), undefined)?.more).toBe('pid 9 /x: workload.no-identity');
    expect(tell(event('workload.refused', { subject: 'spiffe://example.org/a', reason: 'rpc.unreachable' }), undefined)?.more).toBe('spiffe://example.org/a: rpc.unreachable');
  });

  it('of anything else by its own name, and of what another line tells nothing', () => {
    expect(tell(event('authority.activated', { subject: 'id', reason: 'confirmed' }), undefined)).toEqual({ who: 'server', what: 'activated', more: 'authority id (confirmed)' });
    expect(tell(event('server.started'), undefined)).toEqual({ who: 'server', what: 'started', more: '' });
    for (const type of ['workload.matched', 'workload.closed', 'agent.inventory', 'token.created']) expect(tell(event(type), undefined)).toBeUndefined();
  });

  it.each(['', 'no JSON', '[]', '{"pid":"x","selectors":7,"credential":{}}'])('survives the detail %j', (detail) => {
    expect(tell(event('workload.attested', { detail, subject: 's' }), undefined)).toMatchObject({ who: 'agent' });
    expect(credentialOf(event('workload.delivered', { detail }))).toBeUndefined();
  });
});
