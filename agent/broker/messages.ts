/**
 * References as brokers write them, to values; and what a broker is told when there is nothing for one. What is found by a
 * reference is `subjects.ts`.
 */
import { loadMessages } from '../../proto/load.ts';
import type { KubernetesObjectReference__Output } from '../../proto/gen/spiffe/broker/KubernetesObjectReference.ts';
import type { WorkloadReference__Output } from '../../proto/gen/spiffe/broker/WorkloadReference.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { encodeErrorInfo, type StatusDetail } from '../../runtime/rpc/details.ts';
import type { PodReference } from '../workload/attestors/kubernetes/directory.ts';

export type Reference =
  | { readonly kind: 'pid'; readonly pid: number }
  | { readonly kind: 'kubernetes'; readonly pod: PodReference };

const pidUrl = 'type.googleapis.com/spiffe.broker.WorkloadPIDReference';
const kubernetesUrl = 'type.googleapis.com/spiffe.broker.KubernetesObjectReference';
const uuidForm = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
/** What Kubernetes allows a namespace and a pod to be called: RFC 1123's labels, and labels with dots between them. */
const labelForm = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const nameForm = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/;

/**
 * Exactly one reference, of a kind that is known, as its kind has to be [Broker API 3.1].
 * @throws invalid `broker.reference.missing|type|undecodable|pid|object-type|key|uid`
 */
export function referenceFromMessage(message: WorkloadReference__Output | null): Reference {
  const any = message?.reference ?? null;
  if (any === null || any.type_url === '') {
    throw new SpiffeError('invalid', 'broker.reference.missing', 'a workload reference is needed');
  }
  const messages = loadMessages('spiffe.broker.KubernetesObjectReference', 'spiffe.broker.WorkloadPIDReference');
  const { type_url: url, value } = any;
  switch (url) {
    case pidUrl: {
      const { pid } = decoded(value, messages['spiffe.broker.WorkloadPIDReference']);
      if (pid <= 0) throw new SpiffeError('invalid', 'broker.reference.pid', 'pid must be positive');
      return { kind: 'pid', pid };
    }
    case kubernetesUrl:
      return { kind: 'kubernetes', pod: podReference(decoded(value, messages['spiffe.broker.KubernetesObjectReference'])) };
    default:
      throw new SpiffeError('invalid', 'broker.reference.type', 'workload references of this type are not known');
  }
}

function decoded<T>(bytes: Buffer, { deserialize }: { readonly deserialize: (bytes: Buffer) => T }): T {
  try {
    return deserialize(bytes);
  } catch (cause) {
    throw new SpiffeError('invalid', 'broker.reference.undecodable', 'the workload reference cannot be decoded', { cause });
  }
}

function podReference({ type, key, uid }: KubernetesObjectReference__Output): PodReference {
  if (type === null || type.plural === '' || type.group === '') {
    throw new SpiffeError('invalid', 'broker.reference.object-type', 'the object type must have a plural and a group');
  }
  if (type.plural !== 'pods' || type.group !== 'core') {
    throw new SpiffeError('invalid', 'broker.reference.object-type', 'only pods of the group core can be referred to');
  }
  if (key === null && uid === '') throw new SpiffeError('invalid', 'broker.reference.key', 'one of key and uid is needed');
  if (uid !== '' && !uuidForm.test(uid)) throw new SpiffeError('invalid', 'broker.reference.uid', 'uid must be a UUID');
  if (key !== null && !(labelForm.test(key.namespace) && nameForm.test(key.name))) {
    throw new SpiffeError('invalid', 'broker.reference.key', 'key must have the namespace and the name of a pod');
  }
  return { key: key === null ? undefined : { namespace: key.namespace, name: key.name }, uid: uid === '' ? undefined : uid };
}

/** What the standard calls the reasons [Broker API 4.8]; others travel under our own name alone. */
const standardReasons: Readonly<Record<string, string>> = {
  'broker.workload.none': 'WORKLOAD_NOT_FOUND',
  'broker.workload.gone': 'WORKLOAD_NOT_FOUND',
  'workload.no-identity': 'WORKLOAD_NOT_ENTITLED',
  'rpc.request.malformed': 'WORKLOAD_REFERENCE_INVALID',
};

export function brokerStatusDetails({ reason }: SpiffeError): readonly StatusDetail[] {
  const standard = reason.startsWith('broker.reference.') ? 'WORKLOAD_REFERENCE_INVALID' : standardReasons[reason];
  return standard === undefined ? [] : [encodeErrorInfo({ reason: standard, domain: 'spiffe.io', metadata: {} })];
}
