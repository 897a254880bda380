import { describe, expect, it } from 'vitest';
import { brokerStatusDetails, referenceFromMessage } from '../../../agent/broker/messages.ts';
import { loadMessages } from '../../../proto/load.ts';
import type { KubernetesObjectReference } from '../../../proto/gen/spiffe/broker/KubernetesObjectReference.ts';
import type { WorkloadReference__Output } from '../../../proto/gen/spiffe/broker/WorkloadReference.ts';
import { decodeErrorInfo } from '../../../runtime/rpc/details.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';

const messages = loadMessages('spiffe.broker.KubernetesObjectReference', 'spiffe.broker.WorkloadPIDReference');
const [pidName, objectName] = ['spiffe.broker.WorkloadPIDReference', 'spiffe.broker.KubernetesObjectReference'] as const;
const uid = '5f1e2a34-0b6c-4d7e-8f90-a1b2c3d4e5f6';

function packed(url: string, value: Buffer): WorkloadReference__Output {
  return { reference: { type_url: url, value } };
}
const pid = (number: number): WorkloadReference__Output => packed(`type.googleapis.com/${pidName}`, messages[pidName].serialize({ pid: number }));
const object = (fields: KubernetesObjectReference): WorkloadReference__Output => packed(`type.googleapis.com/${objectName}`, messages[objectName].serialize(fields));
const pods = { plural: 'pods', group: 'core' };
const key = { namespace: 'shop', name: 'cart-1.a' };

describe('referenceFromMessage', () => {
  it.each([
    ['BRK-09', pid(1), { kind: 'pid', pid: 1 }],
    ['BRK-09', pid(2_147_483_647), { kind: 'pid', pid: 2_147_483_647 }],
    ['BRK-11', object({ type: pods, key }), { kind: 'kubernetes', pod: { key, uid: undefined } }],
    ['BRK-12', object({ type: pods, uid }), { kind: 'kubernetes', pod: { key: undefined, uid } }],
    ['BRK-13', object({ type: pods, key, uid: uid.toUpperCase() }), { kind: 'kubernetes', pod: { key, uid: uid.toUpperCase() } }],
  ])('%s: reads what is written as it must be', (_rule, message, expected) => {
    expect(referenceFromMessage(message)).toEqual(expected);
  });

  it.each([
    ['BRK-03: no reference', null, 'missing'],
    ['BRK-03: an empty reference', { reference: null }, 'missing'],
    ['BRK-21: one of no type', packed('', Buffer.alloc(0)), 'missing'],
    ['BRK-04: a type that is not known', packed('type.googleapis.com/acme.Workload', Buffer.alloc(0)), 'type'],
    ['BRK-04: a type under another authority', packed(`example.org/${pidName}`, messages[pidName].serialize({ pid: 7 })), 'type'],
    ['BRK-04: another message of the standard', packed('type.googleapis.com/spiffe.broker.WorkloadReference', Buffer.alloc(0)), 'type'],
    ['BRK-22: bytes that are no message', packed(`type.googleapis.com/${pidName}`, Buffer.from('08ff', 'hex')), 'undecodable'],
    ['BRK-22: an object that is cut off', packed(`type.googleapis.com/${objectName}`, Buffer.from('0a7f01', 'hex')), 'undecodable'],
    ['BRK-09: process 0', pid(0), 'pid'],
    ['BRK-22: a negative process', pid(-1), 'pid'],
    ['BRK-22: the least of all processes', pid(-2_147_483_648), 'pid'],
    ['BRK-09: no process', packed(`type.googleapis.com/${pidName}`, Buffer.alloc(0)), 'pid'],
    ['BRK-10: no type of object', object({ key }), 'object-type'],
    ['BRK-10: no plural', object({ type: { group: 'core' }, key }), 'object-type'],
    ['BRK-10: an empty group for core', object({ type: { plural: 'pods' }, key }), 'object-type'],
    ['BRK-04: another group', object({ type: { plural: 'pods', group: 'metrics.k8s.io' }, key }), 'object-type'],
    ['BRK-04: another kind of object', object({ type: { plural: 'deployments', group: 'apps' }, key }), 'object-type'],
    ['BRK-12: neither key nor uid', object({ type: pods }), 'key'],
    ['BRK-11: a pod without a namespace', object({ type: pods, key: { name: 'cart-1' } }), 'key'],
    ['BRK-11: a key without a name', object({ type: pods, key: { namespace: 'shop' } }), 'key'],
    ['BRK-11: a key without a name beside a uid', object({ type: pods, key: { namespace: 'shop' }, uid }), 'key'],
    ['BRK-11: a name that is none', object({ type: pods, key: { namespace: 'shop', name: '../cart-1' } }), 'key'],
    ['BRK-12: a uid that is no UUID', object({ type: pods, uid: 'd31d4d8a3d3c2ac1b3a5e6f1f0a0b1c2' }), 'uid'],
  ] as const)('%s is refused', (_what, message, reason) => {
    expect(() => referenceFromMessage(message)).toThrow(expect.objectContaining({ kind: 'invalid', reason: `broker.reference.${reason}` }));
  });
});

it.each([
  ['BRK-22', 'broker.reference.pid', 'WORKLOAD_REFERENCE_INVALID'],
  ['BRK-22', 'broker.reference.remote', 'WORKLOAD_REFERENCE_INVALID'],
  ['BRK-22', 'rpc.request.malformed', 'WORKLOAD_REFERENCE_INVALID'],
  ['BRK-23', 'broker.workload.none', 'WORKLOAD_NOT_FOUND'],
  ['BRK-26', 'broker.workload.gone', 'WORKLOAD_NOT_FOUND'],
  ['BRK-24', 'workload.no-identity', 'WORKLOAD_NOT_ENTITLED'],
  // What the caller may not is no statement about the workload.
  ['BRK-15', 'broker.caller.unknown', undefined],
  ['BRK-16', 'broker.caller.namespace', undefined],
])('%s, BRK-25: %s is told as %s', (_rule, reason, expected) => {
  const [detail] = brokerStatusDetails(new SpiffeError('denied', reason, 'no'));
  const info = detail === undefined ? undefined : decodeErrorInfo(detail.value);
  expect(info).toEqual(expected === undefined ? undefined : { reason: expected, domain: 'spiffe.io', metadata: {} });
});
