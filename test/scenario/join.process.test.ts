import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Running } from '../help/running.ts';
import { type AgentProcess, createSite, type Site, trustDomain } from '../help/site.ts';

interface Credential {
  readonly id: string;
  readonly state: string;
  readonly spiffeId: string;
  readonly entryId: string;
  readonly agentId: string;
  readonly decisionId: string;
  readonly reason: string;
  readonly issuedAt: string;
  readonly expiresAt: string;
}

interface AuditEvent {
  readonly at: string;
  readonly type: string;
  readonly actor: string;
  readonly call: string;
  readonly outcome: string;
  readonly reason: string;
  readonly subject: string;
  readonly detail: Readonly<Record<string, unknown>>;
}

interface Svid {
  readonly spiffeId: string;
  readonly serial: string;
  readonly notBeforeAt: number;
  readonly expiresAt: number;
}

const web = `spiffe://${trustDomain}/web`;
const db = `spiffe://${trustDomain}/db`;

describe('a node joins and its workloads get identities', () => {
  let site: Site;
  let agent: AgentProcess;
  let agentId: string;
  let token: string;
  let entryId: string;
  let waiting: Running;
  let program: string;

  beforeAll(async () => {
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
    ({ token, agentId } = await site.token());
    agent = await site.startAgent('agent', { token });
    await agent.until('sync.connected');
    program = await site.program('web');
  });
  afterAll(async () => site[Symbol.asyncDispose]());

  it('gives a workload that was waiting its SVID as soon as its entry is created', async () => {
    waiting = site.workload(program, agent, ['source']);
    const refused = site.workload(program, agent, ['fetch']);
    expect(await refused.until('refused')).toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
    expect(waiting.lines).toEqual([]);
    entryId = await site.entry({ path: '/web', parent: agentId, selectors: [`unix:path:${program}`], flags: ['--x509-svid-ttl', '6s'] });
    const { svids } = await waiting.until('svids');
    expect(svids).toMatchObject([{ spiffeId: web }]);
  });

  it('rotates it before it ends, each with a serial of its own', async () => {
    const rotated = await waiting.until((line) => line.event === 'svids' && (line['svids'] as Svid[])[0]?.serial !== firstSvid(waiting).serial);
    const [second] = rotated['svids'] as Svid[];
    const first = firstSvid(waiting);
    expect(second?.spiffeId).toBe(web);
    expect(rotated['at']).toBeLessThan(first.expiresAt);
    expect(second?.expiresAt).toBeGreaterThan(first.expiresAt);
  });

  it('refuses a process of the same user that runs from another path', async () => {
    const stranger = site.workload(await site.program('stranger'), agent, ['fetch', 'db']);
    await stranger.exit;
    expect(stranger.lines).toMatchObject([
      { event: 'refused', kind: 'denied', reason: 'workload.no-identity' },
      { event: 'refused', kind: 'denied', reason: 'workload.no-identity' },
    ]);
  });

  it('lets in over mutual TLS the one identity that a service asks for, and no other', async () => {
    const [serving, callerPath, wrongPath] = await Promise.all(['db', 'caller', 'wrong'].map((name) => site.program(name)));
    await site.entry({ path: '/db', parent: agentId, selectors: [`unix:path:${serving ?? ''}`] });
    await site.entry({ path: '/caller', parent: agentId, selectors: [`unix:path:${callerPath ?? ''}`] });
    await site.entry({ path: '/wrong', parent: agentId, selectors: [`unix:path:${wrongPath ?? ''}`] });
    const server = site.workload(serving ?? '', agent, ['serve', `spiffe://${trustDomain}/caller`]);
    const { port } = await server.until('listening');
    const right = site.workload(callerPath ?? '', agent, ['call', String(port), db, '1', '50']);
    await right.until('exchanged');
    const misled = site.workload(wrongPath ?? '', agent, ['call', String(port), db, '1', '50']);
    expect(await server.until('refused')).toMatchObject({ kind: 'denied', reason: 'source.peer.refused' });
    const seen = server.lines.length;
    const anonymous = site.workload(serving ?? '', agent, ['call-anonymously', String(port)]);
    expect(await server.until((line) => line['reason'] === 'source.peer.anonymous', { from: seen })).toMatchObject({ kind: 'unauthenticated' });
    await anonymous.exit;
    expect(anonymous.lines.map(({ event }) => event)).not.toContain('answered');
    right.child.stdin?.end();
    misled.child.stdin?.end();
    expect(await right.until('called')).toMatchObject({ failures: 0 });
    expect(await misled.until('called')).toMatchObject({ exchanges: 0 });
  });

  it('has on record who got which credential, why and until when', async () => {
    const { serial, expiresAt } = firstSvid(waiting);
    const held = await site.ask<readonly Credential[]>('ledger', 'list', '--spiffe-id', web);
    expect(held.length).toBeGreaterThanOrEqual(2);
    expect(held.every((credential) => credential.state === 'issued' && credential.agentId === agentId && credential.entryId === entryId)).toBe(true);
    const first = await site.ask<Credential>('ledger', 'show', serial);
    expect(first).toMatchObject({ spiffeId: web, entryId, agentId, state: 'issued' });
    expect(first.reason).not.toBe('');
    expect(first.decisionId).not.toBe('');
    expect(Date.parse(first.expiresAt)).toBe(expiresAt);
    expect(Date.parse(first.issuedAt)).toBeLessThanOrEqual(Date.now());
  });

  it('has on record who registered, who joined, and who was refused', async () => {
    const search = (type: string): Promise<readonly AuditEvent[]> => site.ask('audit', 'search', '--type', type);
    const operator = expect.stringMatching(new RegExp(`^operator:${String(process.getuid?.())}/\\d+$`)) as string;
    expect(await search('entry.created')).toContainEqual(expect.objectContaining({ subject: entryId, actor: operator, outcome: 'done' }));
    const [joined, ...others] = await search('agent.attested');
    expect(others).toEqual([]);
    expect(joined).toMatchObject({ subject: agentId, outcome: 'done' });
    expect(Math.abs(Date.now() - Date.parse(joined?.at ?? ''))).toBeLessThan(60_000);
    const { client, services } = site.operators('steeple.operator.v1.Operator');
    const reported = async (type: string): Promise<readonly { actor: string; reason: string; detail: unknown }[]> => {
      const { events } = await client.unary(services['steeple.operator.v1.Operator'].SearchAudit, { type, page_size: 1000 });
      return events.map(({ actor, reason, detail }) => ({ actor, reason, detail: JSON.parse(detail) as unknown }));
    };
    // Agents hand over what they witnessed a moment later.
    const patience = { timeout: 10_000, interval: 200 };
    await expect.poll(() => reported('workload.refused'), patience).toContainEqual({
      actor: agentId,
      reason: expect.stringContaining('workload.no-identity') as string,
      detail: expect.objectContaining({ path: expect.stringMatching(/bin\/stranger$/) as string, uid: process.getuid?.() }) as unknown,
    });
    await expect.poll(() => reported('workload.delivered'), patience).toContainEqual(
      expect.objectContaining({ actor: agentId, detail: expect.objectContaining({ path: program, pid: waiting.pid }) as unknown }),
    );
  });

  it('never shows a token that was not spent yet, and takes each once', async () => {
    const unspent = await site.token();
    const { stdout: record } = await site.steeple('audit', 'search', '--limit', '1000', '--output', 'json');
    expect(record).not.toContain(unspent.token);
    const other = await site.startAgent('other', { token });
    expect((await other.exit).code).toBe(4);
    expect(other.text()).not.toContain(unspent.token);
  });
});

function firstSvid(running: Running): Svid {
  const first = running.lines.find(({ event }) => event === 'svids')?.['svids'] as readonly Svid[] | undefined;
  if (first?.[0] === undefined) throw new Error('no SVID yet');
  return first[0];
}
