import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Finished, steeple } from '../../help/cli.ts';
import { type LiveServer, startLiveServer } from '../../help/live-server.ts';

let server: LiveServer;
beforeAll(async () => {
  server = await startLiveServer();
});
afterAll(async () => server[Symbol.asyncDispose]());

beforeEach(async () => {
  const ids = (await shown()).map(({ id }) => id);
  if (ids.length > 0) await entry('delete', ...ids);
});

function entry(word: string, ...args: string[]): Promise<Finished> {
  return steeple(['entry', word, '--socket', server.socket, ...args]);
}

interface Shown {
  readonly id: string;
  readonly [field: string]: unknown;
}

async function shown(...args: string[]): Promise<readonly Shown[]> {
  const { out, err } = await entry('show', '--output', 'json', ...args);
  expect(err).toBe('');
  return JSON.parse(out) as Shown[];
}

const node = 'spiffe://example.org/node';
const least = ['--parent-id', node, '--spiffe-id', 'spiffe://example.org/a', '--selector', 'unix:uid:0'];

describe('entry create', () => {
  it('registers what the flags say, and shows what the server made of it', async () => {
    const { code, out } = await entry('create', ...least);
    expect(code).toBe(0);
    expect(out).toMatch(/^SPIFFE ID: +spiffe:\/\/example\.org\/a$/m);
    expect(out).toMatch(/^X509-SVID TTL: +default$/m);
    expect(await shown()).toMatchObject([{ spiffeId: 'spiffe://example.org/a', parentId: node, selectors: ['unix:uid:0'], expiresAt: null }]);
  });

  it('G-35: shows what the selectors can prove at most', async () => {
    const digest = `unix:sha256:${'a'.repeat(64)}`;
    expect((await entry('create', ...least)).out).toMatch(/^Strength: +1 of 5: a user alone/m);
    const { out } = await entry('create', '--parent-id', node, '--spiffe-id', 'spiffe://example.org/b', '--selector', 'unix:uid:7', '--selector', digest);
    expect(out).toMatch(/^Strength: +2 of 5: /m);
  });

  it('says which bundles it waits for, and which came', async () => {
    const refused = await entry('create', ...least, '--federates-with', 'far.example');
    expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('unable to find federated bundle "spiffe://far.example"') as string });
    const relationship = ['--trust-domain', 'far.example', '--bundle-endpoint-url', 'https://127.0.0.1:9/', '--bundle-endpoint-profile', 'https_web'];
    expect((await steeple(['federation', 'create', '--socket', server.socket, ...relationship])).code).toBe(0);
    const created = await entry('create', ...least, '--federates-with', 'far.example');
    expect(created.out).toMatch(/^Federates with: +far\.example \(pending/m);
    const [json] = await shown();
    expect(json).toMatchObject({ federatesWith: ['far.example'], pendingBundles: ['far.example'] });
    // What is shown can be sent back.
    const back = await steeple(['entry', 'update', '--socket', server.socket, '--file', '-'], { input: JSON.stringify([json]) });
    expect(back).toMatchObject({ code: 0 });
    expect((await steeple(['bundle', 'set', '--socket', server.socket, '--id', 'far.example', '--format', 'spiffe'], { input: '{"keys":[]}' })).code).toBe(0);
    expect((await entry('show', '--id', String(json?.id))).out).toMatch(/^Federates with: +far\.example$/m);
    expect(await shown()).toMatchObject([{ federatesWith: ['far.example'] }]);
    expect((await shown())[0]).not.toHaveProperty('pendingBundles');
  });

  it('takes every flag', async () => {
    const all = ['--id', 'e1', '--selector', 'unix:gid:0', '--x509-svid-ttl', '5m', '--jwt-svid-ttl', '90', '--dns', 'a.example', '--dns', 'b.example', '--hint', 'h'];
    const switches = ['--admin', '--downstream', '--disable-x509-svid-prefetch', '--jwt-svid-include-jti', '--forbid-cache', '--expires', '2031-01-31T12:00:00Z'];
    expect((await entry('create', ...least, ...all, ...switches)).err).toBe('');
    expect(await shown('--id', 'e1')).toMatchObject([
      {
        id: 'e1', selectors: ['unix:uid:0', 'unix:gid:0'], x509SvidTtlSeconds: 300, jwtSvidTtlSeconds: 90, dnsNames: ['a.example', 'b.example'], hint: 'h',
        admin: true, downstream: true, disableX509SvidPrefetch: true, jwtSvidIncludeJti: true, forbidCache: true, expiresAt: '2031-01-31T12:00:00Z',
      },
    ]);
  });

  it("takes SPIRE's spellings, and -ttl for both", async () => {
    expect((await entry('create', '-parentID', node, '-spiffeID', 'spiffe://example.org/a', '-selector', 'unix:uid:0', '-ttl', '60')).code).toBe(0);
    expect(await shown()).toMatchObject([{ x509SvidTtlSeconds: 60, jwtSvidTtlSeconds: 60 }]);
  });

  it('makes an alias of nodes with --node', async () => {
    expect((await entry('create', '--node', '--spiffe-id', 'spiffe://example.org/cluster', '--selector', 'x509pop:ca:fingerprint:00')).code).toBe(0);
    expect(await shown()).toMatchObject([{ parentId: 'spiffe://example.org/spire/server' }]);
  });

  it.each([
    ['no SPIFFE ID', ['--parent-id', node, '--selector', 'a:b']],
    ['a wrong SPIFFE ID', ['--parent-id', node, '--spiffe-id', 'https://example.org/a', '--selector', 'a:b']],
    ['a wrong selector', ['--parent-id', node, '--spiffe-id', 'spiffe://example.org/a', '--selector', 'plain']],
    ['a wrong instant', [...least, '--expires', 'tomorrow']],
    ['another trust domain', ['--parent-id', node, '--spiffe-id', 'spiffe://other.test/a', '--selector', 'a:b']],
    ['nothing at all', []],
  ])('fails on %s and registers nothing', async (_what, args) => {
    const { code, out, err } = await entry('create', ...args);
    expect(code).not.toBe(0);
    expect(out).toBe('');
    expect(err).not.toBe('');
    expect(await shown()).toEqual([]);
  });

  it('says of a similar entry that it is there, and exits 1', async () => {
    await entry('create', ...least);
    const again = await entry('create', ...least);
    expect([again.code, again.out]).toEqual([1, '']);
    expect(again.err).toMatch(/exists/);
  });
});

describe('entries from a file', () => {
  const many = Array.from({ length: 450 }, (_, index) => ({ spiffeId: `spiffe://example.org/${index}`, parentId: node, selectors: [`unix:uid:${index}`] }));

  it('go in batches, with progress, and are all there', async () => {
    const file = join(server.directory, 'many.json');
    await writeFile(file, JSON.stringify(many));
    expect(await entry('create', '-f', file)).toEqual({ code: 0, out: '450 done, 0 failed\n', err: '200 of 450\n400 of 450\n450 of 450\n' });
    expect((await entry('count')).out).toBe('450\n');
    expect((await entry('count', '--parent-id', node)).out).toBe('450\n');
    expect((await entry('count', '--selector', 'unix:uid:7')).out).toBe('1\n');
    const table = await entry('show');
    expect(table.out.split('\n')).toHaveLength(452);
    expect(table.err).toBe('450 entries\n');
  });

  it('report each item that fails, and keep the others', async () => {
    const text = JSON.stringify({ entries: [many[0], { ...many[1], selectors: ['unix:uid:1', 'unix:uid:1'] }, { ...many[2], spiffeId: 'spiffe://other.test/x' }, many[3]] });
    const { code, out, err } = await steeple(['entry', 'create', '--socket', server.socket, '--file', '-'], { input: text });
    expect([code, out]).toEqual([1, '2 done, 2 failed\n']);
    expect(err).toMatch(/^\/1: .+\n\/x: .+\n$/);
    expect(await shown()).toHaveLength(2);
  });

  it("take SPIRE's form in YAML", async () => {
    const text = `entries:\n- selectors: [{type: unix, value: "uid:1"}]\n  spiffe_id: spiffe://example.org/blog\n  parent_id: ${node}\n  ttl: 200\n`;
    expect((await steeple(['entry', 'create', '--socket', server.socket, '-data', '-'], { input: text })).code).toBe(0);
    expect(await shown()).toMatchObject([{ spiffeId: 'spiffe://example.org/blog', x509SvidTtlSeconds: 200, jwtSvidTtlSeconds: 200 }]);
  });

  it('can be what entry show printed, changed and sent back', async () => {
    await entry('create', ...least, '--hint', 'before');
    const text = (await entry('show', '--output', 'json')).out.replace('before', 'after');
    expect((await steeple(['entry', 'update', '--socket', server.socket, '--file', '-'], { input: text })).code).toBe(0);
    expect(await shown()).toMatchObject([{ hint: 'after', selectors: ['unix:uid:0'] }]);
  });

  it.each([
    ['no such file', ['--file', '/nonexistent/file'], 'cli.file.unreadable', ''],
    ['no YAML', ['--file', '-'], 'cli.entry-file.syntax', '{"a": '],
    ['aliases that grow', ['--file', '-'], 'cli.entry-file.syntax', 'a: &a [1,1]\nb: &b [*a,*a]\nentries: *b\n'],
    ['no entries', ['--file', '-'], 'cli.entry-file.shape', 'a: 1\n'],
  ])('are refused: %s', async (_what, args, reason, input) => {
    const { code, err } = await steeple(['entry', 'create', '--socket', server.socket, ...args], { input });
    expect(code).toBe(2);
    expect(err).toContain(`[${reason}]`);
  });
});

describe('entry update', () => {
  it('changes what the flags name and leaves the rest', async () => {
    await entry('create', ...least, '--id', 'e1', '--hint', 'h', '--x509-svid-ttl', '60', '--dns', 'a.example');
    expect((await entry('update', '--id', 'e1', '--selector', 'unix:uid:5', '--jwt-svid-include-jti')).code).toBe(0);
    expect(await shown('--id', 'e1')).toMatchObject([
      { selectors: ['unix:uid:5'], hint: 'h', x509SvidTtlSeconds: 60, dnsNames: ['a.example'], jwtSvidIncludeJti: true, spiffeId: 'spiffe://example.org/a' },
    ]);
  });

  it('can switch off', async () => {
    await entry('create', ...least, '--id', 'e1', '--admin');
    expect((await entry('update', '--id', 'e1', '--admin=false')).code).toBe(0);
    expect(await shown('--id', 'e1')).toMatchObject([{ admin: false }]);
  });

  it.each([
    ['no id', ['--hint', 'x'], 2],
    ['no change', ['--id', 'e1'], 2],
    ['an entry that is not there', ['--id', 'gone', '--hint', 'x'], 1],
    ['what has no bit in the mask', ['--id', 'e1', '--forbid-cache'], 2],
  ])('refuses %s', async (_what, args, code) => {
    expect((await entry('update', ...args)).code).toBe(code);
  });
});

describe('entry show and delete', () => {
  it('find by each filter', async () => {
    await entry('create', ...least, '--id', 'e1', '--hint', 'x');
    await entry('create', '--parent-id', node, '--spiffe-id', 'spiffe://example.org/b', '--selector', 'unix:uid:0', '--selector', 'unix:gid:0', '--id', 'e2', '--downstream');
    const ids = async (...args: string[]): Promise<string[]> => (await shown(...args)).map(({ id }) => id);
    expect(await ids('--spiffe-id', 'spiffe://example.org/b')).toEqual(['e2']);
    expect(await ids('--hint', 'x')).toEqual(['e1']);
    expect(await ids('--downstream')).toEqual(['e2']);
    // The contract has it that false does not filter.
    expect(await ids('--downstream=false')).toEqual(['e1', 'e2']);
    expect(await ids('--selector', 'unix:uid:0')).toEqual(['e1', 'e2']);
    expect(await ids('--selector', 'unix:uid:0', '--match-selectors-on', 'exact')).toEqual(['e1']);
    expect(await ids('--selector', 'unix:uid:0', '--selector', 'unix:gid:0', '--match-selectors-on', 'subset')).toEqual(['e1', 'e2']);
    expect((await entry('show', '--id', 'gone')).code).toBe(1);
  });

  it('delete by flag, argument and list, and name what was not there', async () => {
    for (const id of ['e1', 'e2', 'e3']) await entry('create', '--parent-id', node, '--spiffe-id', `spiffe://example.org/${id}`, '--selector', 'unix:uid:0', '--id', id);
    expect(await steeple(['entry', 'delete', '--socket', server.socket, '--id', 'e1', 'e2', '--file', '-'], { input: 'e3\n\n' })).toMatchObject({ code: 0, out: 'e1  deleted\ne2  deleted\ne3  deleted\n' });
    const again = await entry('delete', 'e1', '--output', 'json');
    expect(again.code).toBe(1);
    expect(JSON.parse(again.out)).toMatchObject([{ id: 'e1', code: 5 }]);
    expect((await entry('delete')).code).toBe(2);
  });
});
