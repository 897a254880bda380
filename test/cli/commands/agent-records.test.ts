import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import { agentToMessage, type AgentView } from '../../../proto/convert/agent.ts';
import { idFromMessage } from '../../../proto/convert/id.ts';
import type { BanAgentRequest__Output } from '../../../proto/gen/spire/api/server/agent/v1/BanAgentRequest.ts';
import type { DeleteAgentRequest__Output } from '../../../proto/gen/spire/api/server/agent/v1/DeleteAgentRequest.ts';
import type { GetAgentRequest__Output } from '../../../proto/gen/spire/api/server/agent/v1/GetAgentRequest.ts';
import type { ListAgentsRequest__Output } from '../../../proto/gen/spire/api/server/agent/v1/ListAgentsRequest.ts';
import { systemClock } from '../../../runtime/clock.ts';
import { rpcService } from '../../../runtime/rpc/handlers.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSpiffeId } from '../../../spiffe/id.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { type Finished, type ScriptedSocket, serveOnSocket, steeple } from '../../help/cli.ts';
import { type LiveServer, startLiveServer } from '../../help/live-server.ts';

const hour = 3_600_000;
const agentId = (name: string) => parseSpiffeId(`spiffe://example.org/spire/agent/join_token/${name}`);

/** Agents on two pages, one of them banned, one long gone. */
function agents(): AgentView[] {
  const now = systemClock.now();
  const view = (name: string, fields: Partial<AgentView>): AgentView => ({
    id: agentId(name), attestationType: 'join_token', serial: '17', expiresAt: now + hour,
    selectors: [parseSelector(`join_token:${name}`)], canReattest: false, agentVersion: '1.0', ...fields,
  });
  return [view('one', {}), view('banned', { serial: '' }), view('old', { canReattest: true, expiresAt: now - 40 * 24 * hour }), view('new', { canReattest: true, expiresAt: now - hour })];
}

describe('agents', () => {
  let known: AgentView[];
  let filters: unknown[];
  let socket: ScriptedSocket;

  beforeEach(async () => {
    known = agents();
    filters = [];
    const { 'spire.api.server.agent.v1.Agent': definition } = loadServices('spire.api.server.agent.v1.Agent');
    const one = (message: GetAgentRequest__Output['id']): AgentView => {
      const found = known.find(({ id }) => id === idFromMessage(message));
      if (found === undefined) throw new SpiffeError('missing', 'agents.missing', 'agent not found');
      return found;
    };
    const unused = (): never => {
      throw new SpiffeError('unsupported', 'test.unused', 'not asked by these commands');
    };
    socket = await serveOnSocket(
      rpcService(definition, {
        async ListAgents({ page_token, filter }: ListAgentsRequest__Output) {
          filters.push(filter);
          const kept = known.filter(
            (agent) => agent.canReattest === (filter?.by_can_reattest?.value ?? agent.canReattest) && (agent.serial === '') === (filter?.by_banned?.value ?? agent.serial === ''),
          );
          const start = Number(page_token || 0);
          return { agents: kept.slice(start, start + 2).map((agent) => agentToMessage(agent)), next_page_token: start + 2 < kept.length ? String(start + 2) : '' };
        },
        CountAgents: async () => ({ count: known.length }),
        GetAgent: async ({ id }: GetAgentRequest__Output) => agentToMessage(one(id)),
        async DeleteAgent({ id }: DeleteAgentRequest__Output) {
          const gone = one(id);
          known = known.filter((agent) => agent !== gone);
          return {};
        },
        async BanAgent({ id }: BanAgentRequest__Output) {
          const banned = one(id);
          known = known.map((agent) => (agent === banned ? { ...agent, serial: '' } : agent));
          return {};
        },
        AttestAgent: unused, RenewAgent: unused, CreateJoinToken: unused, PostStatus: unused,
      }),
    );
  });
  afterEach(async () => socket[Symbol.asyncDispose]());

  const agent = (word: string, ...args: string[]): Promise<Finished> => steeple(['agent', word, '--socket', socket.path, ...args]);

  it('list shows every page, and each state', async () => {
    const { code, out, err } = await agent('list');
    expect([code, err]).toEqual([0, '4 agents\n']);
    expect(out.trim().split('\n').slice(1).map((line) => line.split(/ {2,}/)[2])).toEqual(['active', 'banned', 'expired', 'expired']);
    expect(JSON.parse((await agent('list', '--output', 'json')).out)).toMatchObject([{ banned: false }, { banned: true }, {}, {}]);
  });

  it('list filters as it is told', async () => {
    await agent('list', '-banned=false', '-canReattest', '--attestation-type', 'x509pop', '--selector', 'a:b', '--expires-before', '2030-01-31T12:00:00Z');
    expect(filters[0]).toMatchObject({
      by_banned: { value: false }, by_can_reattest: { value: true }, by_attestation_type: 'x509pop', by_expires_before: '2030-01-31 12:00:00 +0000 +00',
      by_selector_match: { match: 'MATCH_SUPERSET', selectors: [{ type: 'a', value: 'b' }] },
    });
    expect((await agent('list', '--expires-before', 'soon')).code).toBe(2);
  });

  it('show, by flag or argument', async () => {
    const id = agentId('one');
    expect((await agent('show', '--spiffe-id', id)).out).toMatch(/^State: +active$/m);
    expect(JSON.parse((await agent('show', id, '--output', 'json')).out)).toMatchObject({ id, serial: '17', selectors: ['join_token:one'] });
    expect((await agent('show', agentId('nobody'))).code).toBe(1);
    expect((await agent('show')).code).toBe(2);
  });

  it('count, evict and ban', async () => {
    expect((await agent('count')).out).toBe('4\n');
    expect((await agent('evict', agentId('one'))).out).toBe('evicted\n');
    expect((await agent('ban', '-spiffeID', agentId('new'))).out).toBe('banned\n');
    expect(known.map(({ id, serial }) => [id, serial])).toEqual([[agentId('banned'), ''], [agentId('old'), '17'], [agentId('new'), '']]);
    expect((await agent('evict', agentId('one'))).code).toBe(1);
  });

  it('purge evicts those expired for long that could come back, or only names them', async () => {
    expect(await agent('purge', '--dry-run')).toEqual({ code: 0, out: `${agentId('old')}\n`, err: '1 agents would be evicted\n' });
    expect(known).toHaveLength(4);
    expect((await agent('purge')).err).toBe('1 agents evicted\n');
    expect((await agent('purge', '-expiredFor', '30m')).out).toBe(`${agentId('new')}\n`);
    expect(known.map(({ id }) => id)).toEqual([agentId('one'), agentId('banned')]);
  });
});

describe('token generate', () => {
  let server: LiveServer;
  beforeAll(async () => {
    server = await startLiveServer();
  });
  afterAll(async () => server[Symbol.asyncDispose]());
  const generate = (...args: string[]): Promise<Finished> => steeple(['token', 'generate', '--socket', server.socket, ...args]);

  it("prints the token as SPIRE's does, or one of the operator's own", async () => {
    expect((await generate()).out).toMatch(/^Token: [0-9a-f]{32}\n$/);
    expect((await generate('--token', 'a-token-of-my-own', '-ttl', '60')).out).toBe('Token: a-token-of-my-own\n');
    const { out } = await generate('--spiffe-id', 'spiffe://example.org/node', '--output', 'json');
    expect(JSON.parse(out)).toMatchObject({ token: expect.any(String), expiresAt: expect.stringMatching(/Z$/) });
  });

  it('refuses one that can be guessed, a second use of one, and an alias that is none', async () => {
    expect((await generate('--token', 'short')).code).toBe(2);
    expect((await generate('--token', 'a-token-used-twice')).code).toBe(0);
    expect((await generate('--token', 'a-token-used-twice')).code).not.toBe(0);
    expect((await generate('--spiffe-id', 'node')).code).toBe(2);
  });
});
