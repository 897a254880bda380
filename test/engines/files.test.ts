/**
 * HAProxy and Prometheus as Debian has them take new certificates from the agent's file delivery: the one from a single file
 * after a signal, the other by itself. Their configurations are those of `docs/files.md`.
 */
import { chown, mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { authorizeId, parseSpiffeId, type SpiffeId, WorkloadApi, X509Source } from '../../client/index.ts';
import { connectTls } from '../../client/tls.ts';
import { account, withoutPrograms } from '../help/debian.ts';
import { underLoad } from '../help/rotation-load.ts';
import { runToEnd, type Running, startRunning } from '../help/running.ts';
import { type AgentProcess, createSite, freePort, node, type Site, trustDomain } from '../help/site.ts';

const haproxy = '/usr/sbin/haproxy';
const prometheus = '/usr/bin/prometheus';
const without = withoutPrograms([haproxy, prometheus], ['haproxy', 'prometheus']);
const proxyId = parseSpiffeId(`spiffe://${trustDomain}/proxy`);
const metricsId = parseSpiffeId(`spiffe://${trustDomain}/metrics`);

const inMounts = `
mount -t tmpfs -o size=64k,mode=755 none "$1"
$2 $3 "$1/tls" one
$2 $3 "$1/tls" "$(head -c 100000 /dev/zero | tr '\\0' x)" && exit 9
cat "$1/tls/svid.pem" "$1/tls/key.pem"
ls -A "$1/tls" | grep -c generation
mount -o remount,ro "$1"
$2 $3 "$1/tls" three && exit 9
cat "$1/tls/svid.pem" "$1/tls/key.pem"
`;

describe.skipIf(without !== undefined)(`a file system${without === undefined ? '' : ` (${without})`}`, () => {
  it('that is full, or read-only by now, keeps the set that was there', async () => {
    const place = await realpath(await mkdtemp(path.join(tmpdir(), 'steeple-full-')));
    const writer = path.join(import.meta.dirname, '..', 'help', 'secret-writer.ts');
    const { code, stdout, stderr } = await runToEnd(['unshare', '-m', 'sh', '-uc', inMounts, 'sh', place, node, writer]);
    await rm(place, { recursive: true });
    expect(stdout.replace(/^\d+\n/, ''), stderr).toBe('certificate onekey one1\ncertificate onekey one');
    expect(stderr).toMatch(/reason: 'files\.full'[^]*reason: 'files\.access'/);
    expect(code).toBe(0);
  });
});

describe.skipIf(without !== undefined)(`servers with delivered files${without === undefined ? '' : ` (${without})`}`, () => {
  let site: Site;
  let agent: AgentProcess;
  let api: WorkloadApi;
  let source: X509Source;
  let ports: { readonly proxy: number; readonly metrics: number };
  const servers: Running[] = [];

  const placeOf = async (user: string): Promise<string> => {
    const place = path.join(site.directory, user);
    const { uid, gid } = account(user);
    await mkdir(place);
    await chown(place, uid, gid);
    return place;
  };

  beforeAll(async () => {
    site = await createSite({ server: 'svids: { x509_ttl: 8s }' });
    ports = { proxy: await freePort(), metrics: await freePort() };
    const files = path.join(site.directory, 'files');
    await mkdir(files);
    const [forProxy, forMetrics] = [await placeOf('haproxy'), await placeOf('prometheus')];
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    await site.entry({ path: '/proxy', parent: agentId, selectors: ['delivery:proxy'] });
    await site.entry({ path: '/metrics', parent: agentId, selectors: ['delivery:metrics'] });
    await site.entry({ path: '/client', parent: agentId, selectors: ['unix:uid:0'] });
    const configuration = path.join(site.directory, 'haproxy.cfg');
    await writeFile(
      configuration,
      `global
  stats socket ${forProxy}/admin.sock mode 600 level admin expose-fd listeners
defaults
  mode http
  timeout client 5s
  timeout connect 5s
  timeout server 5s
frontend web
  bind 127.0.0.1:${ports.proxy} ssl crt ${files}/proxy/proxy.pem ca-file ${files}/proxy/bundle.pem verify required
  http-request return status 200 content-type text/plain string ok
`,
    );
    await writeFile(
      path.join(site.directory, 'web.yml'),
      `tls_server_config:
  cert_file: ${files}/metrics/svid.pem
  key_file: ${files}/metrics/key.pem
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ${files}/metrics/bundle.pem
`,
    );
    await writeFile(path.join(site.directory, 'prometheus.yml'), 'scrape_configs: []\n');
    agent = await site.startAgent('agent', {
      token,
      config: `
deliveries:
  - name: proxy
    directory: ${files}/proxy
    owner: haproxy
    files: { combined: proxy.pem, bundle: bundle.pem }
    signal: { name: USR2, pid_file: ${forProxy}/pid, executable: ${haproxy} }
  - name: metrics
    directory: ${files}/metrics
    group: prometheus
    key_mode: "0640"`,
    });
    for (const name of ['proxy', 'metrics']) await agent.until((line) => line.event === 'delivery.written' && line['name'] === name);
    servers.push(startRunning([haproxy, '-W', '-f', configuration, '-p', `${forProxy}/pid`], account('haproxy')));
    const flags = ['--config.file', `${site.directory}/prometheus.yml`, '--web.config.file', `${site.directory}/web.yml`];
    const more = ['--storage.tsdb.path', `${forMetrics}/data`, '--web.listen-address', `127.0.0.1:${ports.metrics}`];
    servers.push(startRunning([prometheus, ...flags, ...more], { ...account('prometheus'), cwd: forMetrics }));
    await agent.until((line) => line.event === 'delivery.notified' && line['name'] === 'proxy');
    api = new WorkloadApi({ address: agent.endpoint });
    source = await X509Source.open({ api });
    await vi.waitFor(() => requestMetrics(), { timeout: 20_000, interval: 200 });
  });
  afterAll(async () => {
    await source?.close();
    api?.close();
    for (const server of servers) await server.end('SIGTERM');
    await site?.[Symbol.asyncDispose]();
  });

  async function request(port: number, id: SpiffeId, page: string): Promise<{ readonly serial: string; readonly answer: string }> {
    const socket = await connectTls(source, { host: '127.0.0.1', port, serverName: 'localhost', authorize: authorizeId(id) });
    const serial = socket.getPeerCertificate().serialNumber;
    socket.end(`GET ${page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
    return { serial, answer: await text(socket) };
  }

  async function requestProxy(): Promise<string> {
    const { serial, answer } = await request(ports.proxy, proxyId, '/');
    if (!answer.startsWith('HTTP/1.1 200 ') || !answer.endsWith('ok')) throw new Error(`HAProxy answers ${answer}`);
    return serial;
  }

  async function requestMetrics(): Promise<string> {
    const { serial, answer } = await request(ports.metrics, metricsId, '/-/healthy');
    if (!answer.startsWith('HTTP/1.1 200 ')) throw new Error(`Prometheus answers ${answer}`);
    return serial;
  }

  it('HAProxy serves through four certificates from one file without a failed connection', async () => {
    const result = await underLoad({ lanes: 4, serials: 4, withinMs: 28_000, once: requestProxy });
    expect(result, `${agent.text()}${servers[0]?.text() ?? ''}`).toMatchObject({ failures: [] });
    expect(result.least).toBeGreaterThanOrEqual(4);
    expect(result.connections).toBeGreaterThan(50);
  });

  it('Prometheus takes the next certificate without being told', async () => {
    // It reads both files at every handshake: the one that a rotation falls into is made again, as its clients do.
    const once = (): Promise<string> => requestMetrics().catch(() => requestMetrics());
    const result = await underLoad({ lanes: 1, serials: 2, withinMs: 20_000, once });
    expect(result, servers[1]?.text()).toMatchObject({ failures: [] });
    expect(result.least).toBeGreaterThanOrEqual(2);
  });
});
