/**
 * nginx as Debian has it takes new certificates from the agent's file delivery, under load and without a failed connection.
 * Its configuration is the one of `docs/files.md`.
 */
import { chown, lstat, mkdir, readlink, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { authorizeId, parseSpiffeId, WorkloadApi, X509Source } from '../../client/index.ts';
import { connectTls } from '../../client/tls.ts';
import { account, withoutPrograms } from '../help/debian.ts';
import { underLoad } from '../help/rotation-load.ts';
import { type Running, startRunning } from '../help/running.ts';
import { type AgentProcess, createSite, freePort, type Site, trustDomain } from '../help/site.ts';

const nginx = '/usr/sbin/nginx';
const user = 'www-data';
const without = withoutPrograms([nginx], [user]);
const web = parseSpiffeId(`spiffe://${trustDomain}/web`);

describe.skipIf(without !== undefined)(`nginx with delivered files${without === undefined ? '' : ` (${without})`}`, () => {
  let site: Site;
  let agent: AgentProcess;
  let api: WorkloadApi;
  let source: X509Source;
  let port: number;
  let files: string;
  let server: Running | undefined;

  beforeAll(async () => {
    site = await createSite({ server: 'svids: { x509_ttl: 6s }' });
    port = await freePort();
    files = path.join(site.directory, 'web');
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    await site.entry({ path: '/web', parent: agentId, selectors: ['delivery:web'] });
    await site.entry({ path: '/client', parent: agentId, selectors: ['unix:uid:0'] });
    const configuration = await configure();
    agent = await site.startAgent('agent', {
      token,
      config: `
deliveries:
  - name: web
    directory: ${files}
    owner: ${user}
    group: ${user}
    hook:
      command: [${nginx}, -c, ${configuration}, -s, reload]
      timeout: 10s`,
    });
    // Files come first: until nginx runs, the hook fails and is tried again.
    await agent.until('delivery.written');
    server = startRunning([nginx, '-c', configuration, '-g', 'daemon off;'], account(user));
    await agent.until('delivery.notified');
    api = new WorkloadApi({ address: agent.endpoint });
    source = await X509Source.open({ api });
  });
  afterAll(async () => {
    await source?.close();
    api?.close();
    // Its workers would outlive a kill.
    await server?.end('SIGTERM');
    await site?.[Symbol.asyncDispose]();
  });

  async function configure(): Promise<string> {
    const place = path.join(site.directory, 'nginx');
    const { uid, gid } = account(user);
    await mkdir(place);
    await chown(place, uid, gid);
    const file = path.join(site.directory, 'nginx.conf');
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `  ${kind}_temp_path ${place}/${kind};`).join('\n');
    await writeFile(
      file,
      `pid ${place}/nginx.pid;
error_log stderr warn;
worker_processes 2;
events {}
http {
  access_log off;
${temporary}
  server {
    listen 127.0.0.1:${port} ssl;
    ssl_certificate     ${files}/svid.pem;
    ssl_certificate_key ${files}/key.pem;
    ssl_client_certificate ${files}/bundle.pem;
    ssl_verify_client on;
    return 200 "$ssl_client_verify $ssl_server_name";
  }
}
`,
    );
    return file;
  }

  /** One request on a connection of its own. */
  async function request(): Promise<string> {
    const socket = await connectTls(source, { host: '127.0.0.1', port, serverName: 'web', authorize: authorizeId(web) });
    const serial = socket.getPeerCertificate().serialNumber;
    socket.end('GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n');
    const answer = await text(socket);
    if (!answer.startsWith('HTTP/1.1 200 ') || !answer.endsWith('SUCCESS web')) throw new Error(`nginx answers ${answer}`);
    return serial;
  }

  it('gives the files to its user, the key to nobody else', async () => {
    const { uid, gid } = account(user);
    expect(await stat(path.join(files, 'key.pem'))).toMatchObject({ uid, gid, mode: 0o100600 });
    expect(await stat(path.join(files, 'svid.pem'))).toMatchObject({ uid, gid, mode: 0o100644 });
    expect(await stat(path.join(files, 'bundle.pem'))).toMatchObject({ uid, gid, mode: 0o100644 });
    expect(await stat(files)).toMatchObject({ uid: 0, mode: 0o040755 });
    expect(await readlink(path.join(files, 'key.pem'))).toBe('current/key.pem');
    expect((await lstat(path.join(files, 'current'))).isSymbolicLink()).toBe(true);
  });

  it('serves through five certificates without a failed connection', async () => {
    const result = await underLoad({ lanes: 4, serials: 5, withinMs: 28_000, once: request });
    expect(result, agent.text()).toMatchObject({ failures: [] });
    expect(result.least).toBeGreaterThanOrEqual(5);
    expect(result.connections).toBeGreaterThan(100);
    const written = agent.lines.filter(({ event }) => event === 'delivery.written').map(({ serial }) => BigInt(`0x${String(serial)}`));
    for (const serial of result.serials) expect(written).toContain(BigInt(`0x${serial}`));
  });

  it('stands reloads that fall anywhere between the rotations', async () => {
    const nudge = setInterval(() => server?.child.kill('SIGHUP'), 350);
    try {
      const result = await underLoad({ lanes: 2, serials: 3, withinMs: 20_000, once: request });
      expect(result, server?.text()).toMatchObject({ failures: [] });
      expect(result.least).toBeGreaterThanOrEqual(3);
    } finally {
      clearInterval(nudge);
    }
  });

  it('is refused by a client that expects another identity', async () => {
    const other = parseSpiffeId(`spiffe://${trustDomain}/other`);
    const refused = connectTls(source, { host: '127.0.0.1', port, serverName: 'web', authorize: authorizeId(other) });
    await expect(refused).rejects.toMatchObject({ kind: 'denied', reason: 'source.peer.refused' });
  });

  it('is on record as delivered and rotated', async () => {
    const search = (type: string): Promise<readonly { subject: string }[]> => site.ask('audit', 'search', '--type', type);
    await expect.poll(async () => (await search('workload.rotated')).filter(({ subject }) => subject === web).length, { timeout: 30_000, interval: 500 }).toBeGreaterThan(2);
    expect((await search('workload.delivered')).filter(({ subject }) => subject === web).length).toBe(1);
  });
});
