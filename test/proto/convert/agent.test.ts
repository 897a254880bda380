import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { agentFromMessage, agentToMessage, type AgentView } from '../../../proto/convert/agent.ts';
import type { AgentMask__Output } from '../../../proto/gen/spire/api/types/AgentMask.ts';
import { loadServices } from '../../../proto/load.ts';
import { overTheWire, selectors, spiffeIds } from './arbitrary.ts';

const service = 'spire.api.server.agent.v1.Agent';
const { GetAgent } = loadServices(service)[service];

const agents: fc.Arbitrary<AgentView> = fc.record({
  id: spiffeIds,
  attestationType: fc.constantFrom('join_token', 'x509pop'),
  serial: fc.oneof(fc.constant(''), fc.bigInt({ min: 1n, max: 2n ** 128n - 1n }).map(String)),
  expiresAt: fc.nat().map((seconds) => seconds * 1000),
  selectors: fc.array(selectors, { maxLength: 4 }),
  canReattest: fc.boolean(),
  agentVersion: fc.string({ maxLength: 20 }),
});

const noMask: AgentMask__Output = {
  attestation_type: false,
  x509svid_serial_number: false,
  x509svid_expires_at: false,
  selectors: false,
  banned: false,
  can_reattest: false,
  agent_version: false,
};

describe('agents in messages', () => {
  it('survive the wire, 128-bit serials included', () => {
    fc.assert(
      fc.property(agents, (agent) => {
        expect(agentFromMessage(overTheWire(GetAgent.responseType, agentToMessage(agent)))).toEqual(agent);
      }),
    );
  });

  it('are banned exactly when the serial is empty', () => {
    fc.assert(
      fc.property(agents, (agent) => {
        expect(agentToMessage(agent).banned).toBe(agent.serial === '');
      }),
    );
  });

  it.each(Object.keys(noMask) as (keyof AgentMask__Output)[])('carry only %s under its mask, and always the id', (name) => {
    fc.assert(
      fc.property(agents, (agent) => {
        const whole = agentToMessage(agent);
        expect(agentToMessage(agent, { ...noMask, [name]: true })).toEqual({ id: whole.id, [name]: whole[name] });
      }),
    );
  });

  it('are refused without an id', () => {
    expect(() => agentFromMessage(overTheWire(GetAgent.responseType, {}))).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason: 'proto.id.missing' }),
    );
  });
});
