import { describe, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import { access, accessRow, type Method, type Role } from '../../../server/api/access.ts';
import { admitCall, type Connection, type Standing } from '../../../server/api/caller.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSpiffeId } from '../../../spiffe/id.ts';
import type { AgentRecord } from '../../../server/store/store.ts';

const agentId = parseSpiffeId('spiffe://example.org/spire/agent/x509pop/a');
const agent: AgentRecord = {
  id: agentId,
  attestationType: 'x509pop',
  serial: '7',
  expiresAt: 1,
  pendingSerial: '',
  pendingExpiresAt: 0,
  selectors: [],
  canReattest: true,
  agentVersion: '',
  attestedAt: 0,
};

const identity = (path: string): Connection => ({
  door: 'tcp',
  address: '192.0.2.1',
  identity: { id: parseSpiffeId(`spiffe://example.org${path}`), serial: '7', expiresAt: 1 },
});

/** One connection for every role the table knows, and two that prove less than they seem to. */
const connections: Record<string, { readonly connection: Connection; readonly proves: readonly Role[] }> = {
  operator: { connection: { door: 'operators', uid: 0, pid: 1 }, proves: ['anyone', 'operator'] },
  stranger: { connection: { door: 'tcp', address: '192.0.2.1', identity: undefined }, proves: ['anyone'] },
  agent: { connection: identity('/spire/agent/x509pop/a'), proves: ['anyone', 'agent'] },
  'banned agent': { connection: identity('/spire/agent/x509pop/banned'), proves: ['anyone'] },
  workload: { connection: identity('/web'), proves: ['anyone'] },
  admin: { connection: identity('/admin'), proves: ['anyone', 'admin'] },
  downstream: { connection: identity('/downstream'), proves: ['anyone', 'downstream'] },
};

const standing: Standing = {
  isAdmin: (id) => id.endsWith('/admin'),
  isDownstream: (id) => id.endsWith('/downstream'),
  async authorizeAgent({ id }) {
    if (id === agentId) return agent;
    throw new SpiffeError('denied', 'agent.not-attested', 'not an agent');
  },
};

describe('access', () => {
  it('T-I01 has a row for every method that is served, and no other', () => {
    const services = loadServices(
      'grpc.health.v1.Health',
      'spire.api.server.agent.v1.Agent',
      'spire.api.server.bundle.v1.Bundle',
      'spire.api.server.entry.v1.Entry',
      'spire.api.server.svid.v1.SVID',
      'spire.api.server.trustdomain.v1.TrustDomain',
      'steeple.node.v1.Node',
      'steeple.operator.v1.Operator',
    );
    const served = Object.values(services).flatMap((service) => Object.values(service).map((method) => method.path));
    expect(Object.keys(access).toSorted()).toEqual([...new Set(served)].toSorted());
  });

  for (const method of Object.keys(access) as Method[]) {
    for (const [who, { connection, proves }] of Object.entries(connections)) {
      const row = access[method];
      const reachable = row.door === 'both' || connection.door === 'operators';
      const allowed = reachable && row.who.some((role) => proves.includes(role));
      it(`T-I01 ${method}: ${who} is ${allowed ? 'admitted' : 'refused'}`, async () => {
        const admitted = admitCall(method, connection, standing);
        if (allowed) {
          const caller = await admitted;
          expect(row.who).toContain(caller.role);
          expect(proves).toContain(caller.role);
        } else {
          await expect(admitted).rejects.toMatchObject({ kind: reachable ? 'denied' : 'unsupported' });
        }
      });
    }
  }

  it.each(['/x.Y/Z', '/spire.api.server.debug.v1.Debug/GetInfo', '__proto__', 'constructor'])('refuses the unknown method %s', async (method) => {
    expect(accessRow(method)).toBeUndefined();
    await expect(admitCall(method, connections['operator']!.connection, standing)).rejects.toMatchObject({ reason: 'access.unknown-method' });
  });

  it('spire-wire 11: agents are never local callers', async () => {
    const call = admitCall('/steeple.node.v1.Node/Issue', { door: 'operators', uid: 0, pid: 1 }, standing);
    await expect(call).rejects.toMatchObject({ reason: 'access.denied' });
  });
});
