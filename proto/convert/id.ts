/**
 * SPIFFE IDs between the message that holds trust domain and path apart and the one string used everywhere else, with
 * the three questions callers ask of an ID: member, workload, agent. The form itself is `spiffe/id.ts`.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import {
  composeSpiffeId,
  isAgentId,
  isMemberOf,
  isWorkloadId,
  pathOf,
  trustDomainFromText,
  trustDomainOf,
  type SpiffeId,
  type TrustDomain,
} from '../../spiffe/id.ts';
import type { SPIFFEID, SPIFFEID__Output } from '../gen/spire/api/types/SPIFFEID.ts';

export function idToMessage(id: SpiffeId): SPIFFEID {
  return { trust_domain: trustDomainOf(id), path: pathOf(id) };
}

/**
 * The trust domain may be written as an ID, whose path is then dropped.
 * @throws invalid `proto.id.missing` and the `id.*` reasons of `spiffe/id.ts`
 */
export function idFromMessage(message: SPIFFEID__Output | null | undefined): SpiffeId {
  if (!message) throw new SpiffeError('invalid', 'proto.id.missing', 'request must specify SPIFFE ID');
  return composeSpiffeId(trustDomainFromText(message.trust_domain), message.path);
}

/**
 * An ID of this trust domain other than the trust domain's own.
 * @throws invalid as `idFromMessage`, and `proto.id.foreign|path-empty`
 */
export function memberIdFromMessage(message: SPIFFEID__Output | null | undefined, trustDomain: TrustDomain): SpiffeId {
  const id = idFromMessage(message);
  if (!isMemberOf(id, trustDomain)) {
    throw new SpiffeError('invalid', 'proto.id.foreign', `"${id}" is not a member of trust domain "${trustDomain}"`);
  }
  if (pathOf(id) === '') {
    throw new SpiffeError('invalid', 'proto.id.path-empty', `"${id}" is the trust domain's own ID; a path is needed`);
  }
  return id;
}

/**
 * An ID of this trust domain that a workload may have.
 * @throws invalid as `memberIdFromMessage`, and `proto.id.reserved`
 */
export function workloadIdFromMessage(message: SPIFFEID__Output | null | undefined, trustDomain: TrustDomain): SpiffeId {
  const id = memberIdFromMessage(message, trustDomain);
  if (!isWorkloadId(id)) {
    throw new SpiffeError('invalid', 'proto.id.reserved', `"${id}" is not a workload ID; its path is reserved`);
  }
  return id;
}

/**
 * An ID of this trust domain that an agent may have.
 * @throws invalid as `memberIdFromMessage`, and `proto.id.not-agent`
 */
export function agentIdFromMessage(message: SPIFFEID__Output | null | undefined, trustDomain: TrustDomain): SpiffeId {
  const id = memberIdFromMessage(message, trustDomain);
  if (!isAgentId(id)) {
    throw new SpiffeError('invalid', 'proto.id.not-agent', `"${id}" is not an agent ID; its path is not below /spire/agent/`);
  }
  return id;
}
