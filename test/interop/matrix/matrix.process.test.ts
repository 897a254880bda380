import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type OutputLine, type Running, startRunning } from '../../help/running.ts';
import { createSite, type Site, trustDomain } from '../../help/site.ts';
import { cornerOf, type Language, languages, leftOut } from './corners.ts';

interface Standing {
  readonly id: string;
  readonly port: unknown;
  readonly running: Running;
}

const idOf = (language: Language): string => `spiffe://${trustDomain}/${language}`;
const pairs = languages.flatMap((caller) => languages.map((callee) => [caller, callee] as const));
const nameOf = (caller: Language, callee: Language): string => `${caller} to ${callee}`;

describe(`libraries of four languages at one agent ${leftOut}`, () => {
  let site: Site;
  const standing = new Map<Language, Standing>();

  beforeAll(async () => {
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    const node = await site.program('node-pair');
    const corners = languages.map((language) => [language, cornerOf(language, node)] as const);
    for (const [language, { executable }] of corners) {
      await site.entry({ path: `/${language}`, parent: agentId, selectors: [`unix:path:${executable}`], flags: ['--x509-svid-ttl', '16s', '--jwt-svid-ttl', '60s'] });
    }
    const agent = await site.startAgent('agent', { token });
    await agent.until('sync.connected');
    const running = corners.map(([language, { command }]) => {
      const program = site.own(startRunning(command, { env: { SPIFFE_ENDPOINT_SOCKET: agent.endpoint } }));
      return [language, program] as const;
    });
    for (const [language, program] of running) {
      const { port, id } = await program.until('listening', { withinMs: 60_000 });
      expect(id).toBe(idOf(language));
      standing.set(language, { id: idOf(language), port, running: program });
    }
  }, 180_000);
  afterAll(async () => site?.[Symbol.asyncDispose]());

  const at = (language: Language): Standing => {
    const found = standing.get(language);
    if (found === undefined) throw new Error(`${language} does not stand`);
    return found;
  };

  const call = async (caller: Language, port: unknown, peer: string): Promise<OutputLine> => {
    const { running } = at(caller);
    const from = running.lines.length;
    running.child.stdin?.write(`${JSON.stringify({ port, peer })}\n`);
    return running.until(({ event }) => event === 'called' || event === 'failed', { from });
  };

  /** Every pair once, one caller after the other. */
  const callAll = async (): Promise<ReadonlyMap<string, OutputLine>> => {
    const lines = new Map<string, OutputLine>();
    for (const [caller, callee] of pairs) lines.set(nameOf(caller, callee), await call(caller, at(callee).port, at(callee).id));
    return lines;
  };

  const expectAll = (lines: ReadonlyMap<string, OutputLine>): void => {
    for (const [caller, callee] of pairs) {
      expect(lines.get(nameOf(caller, callee)), nameOf(caller, callee)).toMatchObject({
        event: 'called',
        peer: idOf(callee),
        reply: { caller: idOf(caller), subject: idOf(caller) },
      });
    }
  };

  it('every one talks mTLS and JWT with every other, before and after its SVID was rotated', async () => {
    const before = await callAll();
    expectAll(before);
    // By then what every server presents is another SVID, and so is what every caller presents.
    const unchanged = async (): Promise<readonly string[]> => {
      const now = await callAll();
      expectAll(now);
      const same = (name: string, key: 'ownSerial' | 'peerSerial'): boolean => now.get(name)?.[key] === before.get(name)?.[key];
      return [...now.keys()].filter((name) => same(name, 'ownSerial') || same(name, 'peerSerial'));
    };
    await expect.poll(unchanged, { timeout: 30_000, interval: 500 }).toEqual([]);
  });

  it.each(languages)('%s refuses a server that is another than it wants', async (language) => {
    const other = languages.find((name) => name !== language) ?? language;
    const line = await call(language, at(other).port, `spiffe://${trustDomain}/somebody-else`);
    expect(line).toMatchObject({ event: 'failed' });
  });

  it('nobody was turned away but by those who wanted another', () => {
    for (const [language, { running }] of standing) {
      const refused = running.lines.filter(({ event }) => event === 'refused');
      // The server sees a caller that hangs up; what it calls that differs.
      expect(refused.length, `${language}: ${JSON.stringify(refused)}`).toBeLessThanOrEqual(languages.length);
    }
  });
});
