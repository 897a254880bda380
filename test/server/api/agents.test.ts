import { describe, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import type { AgentRecord } from '../../../server/store/store.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { keyIdOf } from '../../../spiffe/x509/public-key.ts';
import { agentCaller, operatorCaller, stream, unary } from '../../help/api.ts';
import { openApiWorld } from '../../help/api-world.ts';

const { 'spire.api.server.agent.v1.Agent': service } = loadServices('spire.api.server.agent.v1.Agent');
const id = (path: string) => ({ trust_domain: 'example.org', path });
const stranger = { ...operatorCaller, role: 'anyone' as const, name: 'stranger:192.0.2.9', address: '192.0.2.9' };

async function openAgents() {
  const world = await openApiWorld();
  const { agentsApi } = world;
  const token = async (request: object = {}) => (await unary(service.CreateJoinToken, agentsApi.CreateJoinToken, { ttl: 600, ...request })).value;
  const attest = async (payload: string, csr: Buffer = world.request().csr) => {
    const params = { data: { type: 'join_token', payload: Buffer.from(payload) }, params: { csr } };
    const answers = [];
    for await (const answer of stream(service.AttestAgent, agentsApi.AttestAgent, [{ params }], stranger)) answers.push(answer);
    return answers;
  };
  return { ...world, token, attest };
}

describe('AttestAgent', () => {
  it('spire-wire 4.1, 4.2: a join token makes an agent, its SVID and its alias entry', async () => {
    const { token, attest, request, registry } = await openAgents();
    const value = await token({ agent_id: id('/node/one') });
    const { csr, publicKey } = request();
    const [answer, ...more] = await attest(value, csr);
    expect(more).toEqual([]);
    const agentPath = `/spire/agent/join_token/${value}`;
    expect(answer?.result?.reattestable).toBe(false);
    expect(answer?.result?.svid?.id).toEqual(id(agentPath));
    const leaf = parseCertificate(answer?.result?.svid?.cert_chain[0] ?? Buffer.alloc(0));
    expect(leaf.uris).toEqual([`spiffe://example.org${agentPath}`]);
    expect(Buffer.from(leaf.spki)).toEqual(publicKey);
    expect(leaf.subjectKeyId).toEqual(keyIdOf(publicKey));
    const alias = [...registry.entries.childrenOf(`spiffe://example.org${agentPath}` as AgentRecord['id'])];
    expect(alias.map(({ spiffeId, selectors }) => [spiffeId, selectors])).toEqual([
      ['spiffe://example.org/node/one', [`spiffe_id:spiffe://example.org${agentPath}`]],
    ]);
  });

  it('T-B02 a token is spent once, whatever else the request says', async () => {
    const { token, attest } = await openAgents();
    const value = await token();
    await attest(value);
    await expect(attest(value)).rejects.toMatchObject({
      kind: 'invalid',
      message: 'failed to attest: join token does not exist or has already been used',
    });
  });

  it('spire-wire 4.2: an expired token is refused and gone', async () => {
    const { token, attest, clock } = await openAgents();
    const value = await token({ ttl: 1 });
    await clock.advance(2_000);
    await expect(attest(value)).rejects.toMatchObject({ kind: 'invalid', message: 'join token expired' });
    await clock.advance(5_000);
    await expect(attest(value)).rejects.toMatchObject({ reason: 'token.unknown' });
  });

  it.each([
    ['missing params', { challenge_response: Buffer.from('x') }],
    ['missing attestation data', { params: { params: { csr: Buffer.from('x') } } }],
    ['missing X509-SVID parameters', { params: { data: { type: 'a', payload: Buffer.from('x') } } }],
    ['missing CSR', { params: { data: { type: 'a', payload: Buffer.from('x') }, params: {} } }],
    ['missing attestation data type', { params: { data: { payload: Buffer.from('x') }, params: { csr: Buffer.from('x') } } }],
    ['missing attestation data payload', { params: { data: { type: 'a' }, params: { csr: Buffer.from('x') } } }],
  ])('spire-wire 4.1: %s', async (what, request) => {
    const { agentsApi } = await openAgents();
    const first = stream(service.AttestAgent, agentsApi.AttestAgent, [request], stranger).next();
    await expect(first).rejects.toMatchObject({ kind: 'invalid', message: `malformed param: ${what}` });
  });

  it('spire-wire 4.1: an unknown attestor type is a failed precondition', async () => {
    const { agentsApi, request } = await openAgents();
    const params = { data: { type: 'tea', payload: Buffer.from('x') }, params: { csr: request().csr } };
    const first = stream(service.AttestAgent, agentsApi.AttestAgent, [{ params }], stranger).next();
    await expect(first).rejects.toMatchObject({ kind: 'conflict', message: expect.stringContaining('could not find node attestor type "tea"') as string });
  });

  it('T-I09 a stream that never says anything ends by itself', async () => {
    const { agentsApi, clock } = await openAgents();
    async function* silence() {
      await new Promise(() => undefined);
      yield {};
    }
    const first = stream(service.AttestAgent, agentsApi.AttestAgent, silence(), stranger).next();
    const refused = expect(first).rejects.toMatchObject({ kind: 'unavailable', reason: 'attest.time' });
    await clock.advance(31_000);
    await refused;
  });
});

describe('what operators do with agents', () => {
  it('spire-wire 5.4: ban empties the record and cuts, evict forgets it', async () => {
    const { admit, agentsApi, disconnected } = await openAgents();
    const agent = await admit('a');
    await unary(service.BanAgent, agentsApi.BanAgent, { id: id('/spire/agent/test/a') });
    expect(await unary(service.GetAgent, agentsApi.GetAgent, { id: id('/spire/agent/test/a') })).toMatchObject({ banned: true, x509svid_serial_number: '' });
    await unary(service.DeleteAgent, agentsApi.DeleteAgent, { id: id('/spire/agent/test/a') });
    await expect(unary(service.GetAgent, agentsApi.GetAgent, { id: id('/spire/agent/test/a') })).rejects.toMatchObject({ kind: 'missing', message: 'agent not found' });
    expect(disconnected).toEqual([`banned ${agent.id}`, `evicted ${agent.id}`]);
  });

  it.each([undefined, id('/web'), { trust_domain: 'elsewhere', path: '/spire/agent/x' }])('spire-wire 5.4: %o is no agent ID', async (wrong) => {
    const { agentsApi } = await openAgents();
    for (const method of ['BanAgent', 'DeleteAgent', 'GetAgent'] as const) {
      const handler = agentsApi[method] as typeof agentsApi.GetAgent;
      const call = unary(service.GetAgent, handler, wrong === undefined ? {} : { id: wrong });
      await expect(call).rejects.toMatchObject({ kind: 'invalid', message: expect.stringMatching(/^invalid agent ID: /) as string });
    }
  });

  it('spire-wire 5.4: filters', async () => {
    const { admit, agentsApi, clock } = await openAgents();
    await admit('a', { canReattest: true });
    await admit('b', { expiresAt: clock.now() + 60_000 });
    const count = async (filter: object) => (await unary(service.CountAgents, agentsApi.CountAgents, { filter })).count;
    expect(await count({})).toBe(2);
    expect(await count({ by_can_reattest: { value: true } })).toBe(1);
    expect(await count({ by_banned: { value: true } })).toBe(0);
    expect(await count({ by_attestation_type: 'join_token' })).toBe(0);
    const before = new Date(clock.now() + 600_000).toISOString().slice(0, 19).replace('T', ' ');
    expect(await count({ by_expires_before: `${before} +0000 +00` })).toBe(1);
    expect(await count({ by_expires_before: 'not an instant' })).toBe(2);
  });

  it.each([
    [{ ttl: 0 }, 'ttl is required, you must provide one'],
    [{ ttl: 1, agent_id: id('/spire/server') }, expect.stringMatching(/^invalid agent ID: /) as string],
    [{ ttl: 1, token: 'short' }, expect.any(String) as string],
    [{ ttl: 1, token: '../../../../etc/passwd' }, expect.any(String) as string],
  ])('spire-wire 4.2, T-B03: a token is not made of %o', async (request, message) => {
    const { agentsApi } = await openAgents();
    await expect(unary(service.CreateJoinToken, agentsApi.CreateJoinToken, request)).rejects.toMatchObject({ kind: 'invalid', message });
  });
});

describe('what agents do', () => {
  it('spire-wire 5.2: renews as pending; an agent that can re-attest must', async () => {
    const { admit, agentsApi, request, registry } = await openAgents();
    const caller = agentCaller(await admit('a'));
    const { svid } = await unary(service.RenewAgent, agentsApi.RenewAgent, { params: { csr: request().csr } }, caller);
    const leaf = parseCertificate(svid?.cert_chain[0] ?? Buffer.alloc(0));
    const record = registry.agents.get(caller.id!);
    expect(record).toMatchObject({ serial: '1001', pendingSerial: leaf.serial.decimal });
    const able = agentCaller(await admit('b', { canReattest: true }));
    await expect(unary(service.RenewAgent, agentsApi.RenewAgent, { params: { csr: request().csr } }, able)).rejects.toMatchObject({ reason: 'agent.must-reattest' });
  });

  it.each([
    [{}, 'params cannot be nil'],
    [{ params: {} }, 'missing CSR'],
    [{ params: { csr: Buffer.from('junk') } }, expect.stringMatching(/^failed to parse CSR: /) as string],
  ])('spire-wire 5.2: %o', async (request, message) => {
    const { admit, agentsApi } = await openAgents();
    const caller = agentCaller(await admit('a'));
    await expect(unary(service.RenewAgent, agentsApi.RenewAgent, request, caller)).rejects.toMatchObject({ kind: 'invalid', message });
  });

  it('spire-wire 5.3: posts its version', async () => {
    const { admit, agentsApi, registry } = await openAgents();
    const caller = agentCaller(await admit('a'));
    await unary(service.PostStatus, agentsApi.PostStatus, { agent_version: '1.2' }, caller);
    expect(registry.agents.get(caller.id!)?.agentVersion).toBe('1.2');
    await expect(unary(service.PostStatus, agentsApi.PostStatus, { agent_version: 'x'.repeat(256) }, caller)).rejects.toMatchObject({
      message: 'agent version is too long (max 255 characters)',
    });
  });
});
