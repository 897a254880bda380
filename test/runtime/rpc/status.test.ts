import { Metadata, status as grpcStatus } from '@grpc/grpc-js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadMessages } from '../../../proto/load.ts';
import {
  decodeErrorInfo,
  decodePermissionDenied,
  decodeRichStatus,
  encodeErrorInfo,
  encodeRichStatus,
  permissionDeniedDetail,
  permissionDeniedReasons,
} from '../../../runtime/rpc/details.ts';
import { fromStatus, permissionDeniedReason, statusOfKind, toItemStatus, toStatus } from '../../../runtime/rpc/status.ts';
import { errorKinds, SpiffeError } from '../../../spiffe/errors.ts';
import { corpus, run } from '../../fuzz/status.fuzz.ts';

const newIncident = (): string => 'incident-1';
const detailsKey = 'grpc-status-details-bin';

describe('the mapping', () => {
  it('has one code per kind', () => {
    expect(statusOfKind).toEqual({
      invalid: 3,
      unauthenticated: 16,
      denied: 7,
      missing: 5,
      exists: 6,
      conflict: 9,
      limited: 8,
      unavailable: 14,
      unsupported: 12,
      internal: 13,
    });
    expect(new Set(Object.values(statusOfKind)).size).toBe(errorKinds.length);
  });

  it.each(errorKinds)('brings %s back as it was', (kind) => {
    const error = new SpiffeError(kind, 'some.reason', 'a message — with ümlauts\n', { detail: { id: 'e', n: 3, yes: true }, cause: new Error('private') });
    const status = toStatus(error, { newIncident });
    expect(status).toMatchObject({ code: statusOfKind[kind], details: error.message, reason: 'some.reason', incident: undefined });
    expect(JSON.stringify(status.metadata.toJSON())).not.toContain(Buffer.from('private').toString('base64').slice(0, 6));
    expect(fromStatus(status)).toMatchObject({ kind, reason: 'some.reason', message: error.message, detail: { id: 'e', n: '3', yes: 'true' } });
  });

  it('says nothing of a foreign error but an incident', () => {
    const status = toStatus(new TypeError('secret'), { newIncident, details: [permissionDeniedDetail('AGENT_BANNED')] });
    expect(status).toMatchObject({ code: grpcStatus.INTERNAL, details: 'internal error (incident incident-1)', incident: 'incident-1' });
    expect(fromStatus(status)).toMatchObject({ kind: 'internal', reason: 'internal', detail: { incident: 'incident-1' } });
    expect(permissionDeniedReason(fromStatus(status))).toBeUndefined();
    expect(toItemStatus('thrown text', newIncident)).toMatchObject({ code: 13, incident: 'incident-1' });
    expect(toItemStatus(new SpiffeError('missing', 'x', 'not there'), newIncident)).toEqual({ code: 5, message: 'not there' });
  });

  it('carries and reads SPIRE’s PermissionDeniedDetails, from us and from SPIRE', () => {
    const error = new SpiffeError('denied', 'agent.banned', 'authorization denied for method /x');
    const ours = fromStatus(toStatus(error, { newIncident, details: [permissionDeniedDetail('AGENT_BANNED')] }));
    expect(ours.reason).toBe('agent.banned');
    expect(permissionDeniedReason(ours)).toBe('AGENT_BANNED');

    for (const reason of permissionDeniedReasons.slice(1)) {
      const metadata = new Metadata();
      metadata.set(detailsKey, encodeRichStatus({ code: 7, message: 'm', details: [permissionDeniedDetail(reason)] }));
      const foreign = fromStatus({ code: 7, details: 'm', metadata });
      expect(foreign).toMatchObject({ kind: 'denied', reason: `peer.${reason.toLowerCase().replaceAll('_', '-')}` });
      expect(permissionDeniedReason(foreign)).toBe(reason);
    }
  });

  it.each([
    [grpcStatus.DEADLINE_EXCEEDED, 'unavailable', 'rpc.deadline'],
    [grpcStatus.CANCELLED, 'unavailable', 'rpc.cancelled'],
    [grpcStatus.UNKNOWN, 'internal', 'peer.unknown'],
    [grpcStatus.NOT_FOUND, 'missing', 'peer.not-found'],
    [grpcStatus.ABORTED, 'conflict', 'peer.aborted'],
    [99, 'internal', 'peer.unknown'],
  ])('reads a foreign %i as %s', (code, kind, reason) => {
    expect(fromStatus({ code, details: 'd' })).toMatchObject({ kind, reason, message: 'd' });
  });

  it('believes only its own domain, and no details that are none', () => {
    const metadata = new Metadata();
    const info = encodeErrorInfo({ reason: 'agent.banned', domain: 'googleapis.com', metadata: {} });
    metadata.set(detailsKey, encodeRichStatus({ code: 7, message: '', details: [info] }));
    expect(fromStatus({ code: 7, details: '', metadata }).reason).toBe('peer.permission-denied');
    metadata.set(detailsKey, Buffer.from([0xff, 0xff]));
    expect(fromStatus({ code: 7, details: '', metadata }).reason).toBe('peer.permission-denied');
  });

  it('keeps a status small and well-formed', () => {
    const detail = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`k${i}`, 'v'.repeat(10_000)]));
    const status = toStatus(new SpiffeError('invalid', 'r', `\ud800${'x'.repeat(100_000)}`, { detail }), { newIncident });
    expect(() => encodeURI(status.details)).not.toThrow();
    const [bytes] = status.metadata.get(detailsKey);
    expect((bytes as Buffer).length + status.details.length).toBeLessThan(8_192);
  });
});

describe('the messages', () => {
  const proto = loadMessages('google.rpc.Status', 'google.rpc.ErrorInfo', 'spire.api.types.PermissionDeniedDetails');

  it('are what protobuf says they are', () => {
    fc.assert(
      fc.property(
        fc.record({
          code: fc.nat(2 ** 31 - 1),
          message: fc.string({ unit: 'grapheme' }),
          details: fc.array(fc.record({ typeUrl: fc.string(), value: fc.uint8Array({ maxLength: 300 }) }), { maxLength: 5 }),
        }),
        (status) => {
          const bytes = encodeRichStatus(status);
          const message = proto['google.rpc.Status'].deserialize(bytes);
          expect([message.code, message.message]).toEqual([status.code, status.message]);
          expect(decodeRichStatus(bytes)).toEqual({ ...status, details: status.details.map((d) => ({ ...d, value: expect.anything() })) });
          expect(decodeRichStatus(bytes)?.details.map((d) => Buffer.from(d.value))).toEqual(status.details.map((d) => Buffer.from(d.value)));
        },
      ),
      { numRuns: 200 },
    );
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.dictionary(fc.string(), fc.string(), { maxKeys: 10 }), (reason, domain, metadata) => {
        const { value } = encodeErrorInfo({ reason, domain, metadata });
        expect(proto['google.rpc.ErrorInfo'].deserialize(Buffer.from(value))).toMatchObject({ reason, domain });
        const again = proto['google.rpc.ErrorInfo'].serialize({ reason, domain, metadata });
        expect(decodeErrorInfo(again)).toEqual({ reason, domain, metadata: { ...metadata } });
      }),
      { numRuns: 200 },
    );
    for (const reason of permissionDeniedReasons) {
      const bytes = proto['spire.api.types.PermissionDeniedDetails'].serialize({ reason });
      const ours = Buffer.from(permissionDeniedDetail(reason).value);
      expect(proto['spire.api.types.PermissionDeniedDetails'].deserialize(ours).reason).toBe(reason);
      expect(decodePermissionDenied(bytes)).toBe(reason);
    }
    expect(decodePermissionDenied(Buffer.from([0x08, 0x63]))).toBe('UNKNOWN');
  });

  it('skip fields they do not know and refuse what is cut off', () => {
    const known = encodeRichStatus({ code: 5, message: 'm', details: [] });
    const unknown = Buffer.from([0x9a, 0x06, 0x01, 0x00, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x2d, 1, 2, 3, 4, 0x30, 0xff, 0x01]);
    expect(decodeRichStatus(Buffer.concat([unknown, known]))).toEqual({ code: 5, message: 'm', details: [] });
    for (const bad of [[0x0a, 5, 1], [0x00], [0x0b], [0x08], [0x08, ...Array.from({ length: 11 }, () => 0x80)], [0x21, 1], [0x2d]]) {
      expect(decodeRichStatus(Buffer.from(bad))).toBeUndefined();
    }
  });

  it('survive any bytes', () => {
    for (const seed of corpus()) run(seed);
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => run(bytes)), { numRuns: 500 });
  });
});
