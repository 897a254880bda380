/**
 * Agent records between messages and domain values, whole or under a mask. What a record means, and who may see it, is
 * the server's.
 */
import type { SpiffeId } from '../../spiffe/id.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { Agent, Agent__Output } from '../gen/spire/api/types/Agent.ts';
import type { AgentMask__Output } from '../gen/spire/api/types/AgentMask.ts';
import { idFromMessage, idToMessage } from './id.ts';
import { instantFromSeconds, secondsFromInstant } from './scalar.ts';
import { selectorsFromMessages, selectorsToMessages } from './selector.ts';

/** What others may know of an agent. */
export interface AgentView {
  readonly id: SpiffeId;
  readonly attestationType: string;
  /** Decimal; `''` means banned. */
  readonly serial: string;
  readonly expiresAt: number;
  readonly selectors: readonly Selector[];
  readonly canReattest: boolean;
  readonly agentVersion: string;
}

/** Which fields; absent means all of them. */
export type AgentMaskMessage = AgentMask__Output | null | undefined;

/** The id has no mask bit and is always there. */
export function agentToMessage(agent: AgentView, mask?: AgentMaskMessage): Agent {
  const message: Agent = { id: idToMessage(agent.id) };
  if (mask?.attestation_type ?? true) message.attestation_type = agent.attestationType;
  if (mask?.x509svid_serial_number ?? true) message.x509svid_serial_number = agent.serial;
  if (mask?.x509svid_expires_at ?? true) message.x509svid_expires_at = secondsFromInstant(agent.expiresAt);
  if (mask?.selectors ?? true) message.selectors = selectorsToMessages(agent.selectors);
  if (mask?.banned ?? true) message.banned = agent.serial === '';
  if (mask?.can_reattest ?? true) message.can_reattest = agent.canReattest;
  if (mask?.agent_version ?? true) message.agent_version = agent.agentVersion;
  return message;
}

/**
 * A whole record as a server sends it without a mask.
 * @throws invalid as `idFromMessage`, `instantFromSeconds`, `selectorFromMessage`
 */
export function agentFromMessage(message: Agent__Output): AgentView {
  return Object.freeze({
    id: idFromMessage(message.id),
    attestationType: message.attestation_type,
    serial: message.banned ? '' : message.x509svid_serial_number,
    expiresAt: instantFromSeconds(message.x509svid_expires_at, 'x509svid_expires_at'),
    selectors: selectorsFromMessages(message.selectors),
    canReattest: message.can_reattest,
    agentVersion: message.agent_version,
  });
}
