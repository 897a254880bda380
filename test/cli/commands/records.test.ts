import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Finished, steeple } from '../../help/cli.ts';
import { type LiveServer, startLiveServer } from '../../help/live-server.ts';

let server: LiveServer;
beforeAll(async () => {
  server = await startLiveServer();
});
afterAll(async () => server[Symbol.asyncDispose]());

function ask(words: string, ...args: string[]): Promise<Finished> {
  return steeple([...words.split(' '), '--socket', server.socket, ...args]);
}

async function asked(words: string, ...args: string[]): Promise<unknown> {
  const { code, out, err } = await ask(words, ...args, '--output', 'json');
  expect([code, err]).toEqual([0, '']);
  return JSON.parse(out);
}

describe('ledger', () => {
  it('lists and shows what was issued, and finds it by each filter', async () => {
    await ask('x509 mint', '--spiffe-id', 'spiffe://example.org/listed');
    await ask('jwt mint', '--spiffe-id', 'spiffe://example.org/listed', '--audience', 'db');
    const found = (await asked('ledger list', '--spiffe-id', 'spiffe://example.org/listed')) as { id: string; kind: string; state: string }[];
    expect(found.map(({ kind }) => kind).toSorted()).toEqual(['jwt', 'x509']);
    expect(await asked('ledger list', '--spiffe-id', 'spiffe://example.org/listed', '--kind', 'jwt')).toMatchObject([{ kind: 'jwt', audience: ['db'] }]);
    expect(await asked('ledger list', '--limit', '1')).toHaveLength(1);
    const serial = found.find(({ kind }) => kind === 'x509')?.id ?? '';
    expect((await ask('ledger show', serial)).out).toMatch(/^SPIFFE ID: +spiffe:\/\/example\.org\/listed$/m);
    expect(await asked('ledger show', serial)).toMatchObject({ id: serial, spiffeId: 'spiffe://example.org/listed' });
    expect((await ask('ledger list')).out).toMatch(/^ID +KIND +SPIFFE ID/);
    expect((await ask('ledger show', 'ff')).code).toBe(1);
    expect((await ask('ledger show')).code).toBe(2);
  });
});

describe('audit', () => {
  it('search finds by type, subject, outcome and time', async () => {
    await ask('entry create', '--id', 'audited', '--parent-id', 'spiffe://example.org/n', '--spiffe-id', 'spiffe://example.org/a', '--selector', 'unix:uid:0');
    expect(await asked('audit search', '--type', 'entry.created', '--subject', 'audited')).toMatchObject([{ type: 'entry.created', subject: 'audited', outcome: 'done', actor: expect.stringMatching(/^operator:/) }]);
    expect(await asked('audit search', '--subject', 'audited', '--outcome', 'refused')).toEqual([]);
    expect(await asked('audit search', '--subject', 'audited', '--until', '1h')).toEqual([]);
    expect(await asked('audit search', '--subject', 'audited', '--since', '1h')).toHaveLength(1);
    expect(await asked('audit search', '--limit', '2')).toHaveLength(2);
    expect((await ask('audit search', '--subject', 'audited')).out).toMatch(/^\S+Z #\d+ entry\.created done audited by operator:/);
    expect((await ask('audit search', '--since', 'yesterday')).code).toBe(2);
  });

  it('tail shows what is there, then what comes, and ends when its reader leaves', async () => {
    const stop = new AbortController();
    const lines: string[] = [];
    const onOut = (text: string): void => {
      lines.push(text);
      if (text.includes('entry.deleted')) stop.abort(new Error('seen enough'));
    };
    const tail = steeple(['audit', 'tail', '--socket', server.socket, '--last', '1', '--output', 'json'], { signal: stop.signal, onOut });
    while (lines.length === 0) await new Promise((resolve) => { setImmediate(resolve); });
    await ask('entry delete', 'audited');
    expect((await tail).code).toBe(0);
    const events = lines.map((line) => JSON.parse(line) as { number: number; type: string });
    expect(events.at(-1)).toMatchObject({ type: 'entry.deleted', subject: 'audited' });
    expect(events.map(({ number }) => number)).toEqual(events.map((_, index) => (events[0]?.number ?? 0) + index));
  });
});

describe('authority', () => {
  it('shows, prepares and activates', async () => {
    const before = (await asked('authority show')) as { kind: string; id: string; state: string }[];
    expect(before.map(({ kind, state }) => `${kind} ${state}`).toSorted()).toEqual(['jwt active', 'x509 active']);
    const [prepared] = (await asked('authority prepare', '--kind', 'jwt')) as { id: string; state: string }[];
    expect(prepared).toMatchObject({ kind: 'jwt', state: 'prepared' });
    expect((await ask('authority show', '--kind', 'jwt')).out).toContain(prepared?.id);
    expect(await asked('authority activate', '--kind', 'jwt', '--id', prepared?.id ?? '')).toMatchObject([{ id: prepared?.id, state: 'active' }]);
  });

  it.each([
    ['which kind', 'authority prepare', []],
    ['which one', 'authority activate', ['--kind', 'x509']],
    ['a kind that there is', 'authority prepare', ['--kind', 'wit']],
  ])('wants to know %s', async (_what, words, args) => {
    expect((await ask(words, ...args)).code).toBe(2);
  });
});
