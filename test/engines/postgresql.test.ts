/**
 * PostgreSQL 15 as Debian has it takes new certificates from `steeple svid watch`, a workload of its own that runs as the
 * database's user, under load and without a failed connection. Its settings are those of `docs/files.md`.
 */
import { chown, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { TLSSocket } from 'node:tls';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { authorizeId, parseSpiffeId, WorkloadApi, X509Source } from '../../client/index.ts';
import { tlsClientOptions } from '../../client/tls.ts';
import { account, withoutPrograms } from '../help/debian.ts';
import { underLoad } from '../help/rotation-load.ts';
import { runToEnd, type Running, startRunning } from '../help/running.ts';
import { createSite, freePort, node, type Site, trustDomain } from '../help/site.ts';

const programs = '/usr/lib/postgresql/15/bin';
const postgres = path.join(programs, 'postgres');
const user = 'postgres';
const without = withoutPrograms([postgres], [user]);
const database = parseSpiffeId(`spiffe://${trustDomain}/database`);
const steeple = path.join(import.meta.dirname, '..', '..', 'bin', 'steeple.cjs');

describe.skipIf(without !== undefined)(`PostgreSQL with watched files${without === undefined ? '' : ` (${without})`}`, () => {
  let site: Site;
  let api: WorkloadApi;
  let source: X509Source;
  let port: number;
  let files: string;
  let server: Running | undefined;
  let watcher: Running;

  beforeAll(async () => {
    site = await createSite({ server: 'svids: { x509_ttl: 6s }' });
    port = await freePort();
    const owner = account(user);
    const home = path.join(site.directory, 'postgresql');
    const data = path.join(home, 'data');
    files = path.join(home, 'tls');
    await mkdir(home);
    await chown(home, owner.uid, owner.gid);
    const made = runToEnd([path.join(programs, 'initdb'), '-D', data, '-A', 'trust', '--no-sync', '--no-instructions'], { ...owner, cwd: home });
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    await site.entry({ path: '/database', parent: agentId, selectors: [`unix:uid:${owner.uid}`] });
    await site.entry({ path: '/client', parent: agentId, selectors: ['unix:uid:0'] });
    const agent = await site.startAgent('agent', { token });
    const { code, stderr } = await made;
    expect(code, stderr).toBe(0);
    await writeFile(
      path.join(data, 'postgresql.auto.conf'),
      `listen_addresses = '127.0.0.1'
port = ${port}
unix_socket_directories = '${home}'
fsync = off
ssl = on
ssl_cert_file = '${files}/svid.pem'
ssl_key_file = '${files}/key.pem'
ssl_ca_file = '${files}/bundle.pem'
`,
    );
    await writeFile(path.join(data, 'pg_hba.conf'), 'hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n');
    const flags = ['--socket', agent.socket, '--dir', files, '--jwt', 'vault=vault.jwt', '--output', 'json'];
    const run = { ...owner, cwd: home };
    // The database wants its files before it starts; afterwards it is told of new ones.
    const once = await runToEnd([node, steeple, 'svid', 'watch', ...flags, '--once'], run);
    expect(once).toMatchObject({ code: 0, stderr: '' });
    const signal = ['--signal', 'HUP', '--pid-file', path.join(data, 'postmaster.pid'), '--executable', postgres];
    watcher = site.own(startRunning([node, steeple, 'svid', 'watch', ...flags, ...signal], run));
    server = startRunning([postgres, '-D', data], run);
    await vi.waitFor(() => expect(server?.text()).toContain('ready to accept connections'), { timeout: 20_000 });
    await watcher.until(({ svids }) => svids !== undefined);
    api = new WorkloadApi({ address: agent.endpoint });
    source = await X509Source.open({ api });
  });
  afterAll(async () => {
    await source?.close();
    api?.close();
    await server?.end('SIGINT');
    await site?.[Symbol.asyncDispose]();
  });

  async function connect(): Promise<{ readonly client: Client; readonly serial: string }> {
    const client = new Client({ host: '127.0.0.1', port, user, database: 'postgres', ssl: tlsClientOptions(source, { authorize: authorizeId(database) }) });
    await client.connect();
    const { stream } = (client as unknown as { connection: { stream: TLSSocket } }).connection;
    return { client, serial: stream.getPeerCertificate().serialNumber };
  }

  async function query(): Promise<string> {
    const { client, serial } = await connect();
    try {
      const { rows } = await client.query<{ ssl: boolean; client_serial: string }>('select ssl, client_serial from pg_stat_ssl where pid = pg_backend_pid()');
      if (rows[0]?.ssl !== true || rows[0].client_serial === null) throw new Error(`not by mutual TLS: ${JSON.stringify(rows)}`);
      return serial;
    } finally {
      await client.end();
    }
  }

  it('has files that are its own', async () => {
    const { uid, gid } = account(user);
    expect(await stat(path.join(files, 'key.pem'))).toMatchObject({ uid, gid, mode: 0o100600 });
    expect(await stat(path.join(files, 'vault.jwt'))).toMatchObject({ uid, gid, mode: 0o100600 });
    const claims = JSON.parse(Buffer.from((await readFile(path.join(files, 'vault.jwt'), 'utf8')).split('.')[1] ?? '', 'base64url').toString()) as object;
    expect(claims).toMatchObject({ sub: database, aud: ['vault'] });
  });

  it('serves through five certificates without a failed or broken connection', async () => {
    const kept = await connect();
    kept.client.on('error', () => undefined);
    const result = await underLoad({ lanes: 4, serials: 5, withinMs: 28_000, once: query });
    expect(result, `${watcher.text()}${server?.text() ?? ''}`).toMatchObject({ failures: [] });
    expect(result.least).toBeGreaterThanOrEqual(5);
    expect(result.connections).toBeGreaterThan(100);
    expect((await kept.client.query<{ one: number }>('select 1 as one')).rows).toEqual([{ one: 1 }]);
    await kept.client.end();
    const told = watcher.lines.flatMap(({ svids }) => (svids as { serial: string }[]).map(({ serial }) => BigInt(`0x${serial}`)));
    for (const serial of result.serials.slice(1)) expect(told).toContain(BigInt(`0x${serial}`));
    expect(server?.text()).not.toMatch(/could not load|FATAL/);
  });

  it('leaves no old generation behind', async () => {
    const left = (await readdir(files)).filter((name) => name.startsWith('.'));
    expect(left.length).toBeLessThanOrEqual(2);
  });

  it('is left alone by a watcher that is told to end', async () => {
    expect(await watcher.end('SIGTERM')).toEqual({ code: 0, signal: null });
    expect(typeof (await query())).toBe('string');
  });
});
