/**
 * Other people's clients at our agent on behalf of others: go-spiffe's and the crate spiffe's for the Broker API, and SPIRE's
 * for delegated identity, unmodified.
 */
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Cluster, createCluster } from '../help/kubernetes.ts';
import { podOf } from '../help/kubernetes-pods.ts';
import { type Running, startRunning } from '../help/running.ts';
import { type AgentProcess, createSite, freePort, type Site, trustDomain } from '../help/site.ts';
import { buildProgram, withoutGo } from './program.ts';

const rust = path.join(import.meta.dirname, '..', '..', '.interop', 'rust', 'debug', 'broker');
const withoutRust = process.env['CI'] !== undefined || existsSync(rust) ? undefined : 'skipped: no Rust program: run .ci/interop';
const idOf = (name: string): string => `spiffe://${trustDomain}/${name}`;

describe.skipIf(withoutGo !== undefined)(`unmodified clients on behalf of others ${withoutGo ?? ''}`, () => {
  let site: Site;
  let cluster: Cluster;
  let agent: AgentProcess;
  let agentId: string;
  let addresses: Readonly<Record<'unix' | 'tcp', string>>;
  let programs: Readonly<Record<'mesh' | 'narrow' | 'stranger' | 'web', string>>;

  beforeAll(async () => {
    const built = buildProgram();
    cluster = await createCluster();
    cluster.tokens.add('agent-token');
    cluster.setPod(podOf('cart-1', { namespace: 'shop', serviceAccount: 'cart' }));
    site = await createSite();
    await writeFile(path.join(site.directory, 'kube-ca.pem'), cluster.authority.ca);
    await writeFile(path.join(site.directory, 'kube-token'), 'agent-token', { mode: 0o600 });
    await site.startServer();
    await site.writeBundle();
    const joined = await site.token();
    ({ agentId } = joined);
    const copy = async (name: string): Promise<string> => {
      const file = path.join(site.directory, 'bin', name);
      await copyFile(built, file);
      return file;
    };
    programs = { mesh: await copy('go-mesh'), narrow: await copy('go-narrow'), stranger: await copy('go-stranger'), web: await site.program('web') };
    for (const [name, file] of Object.entries(programs)) {
      await site.entry({ path: `/${name}`, parent: agentId, selectors: [`unix:path:${file}`], flags: ['--x509-svid-ttl', '8s'] });
    }
    await site.entry({ path: '/shop/cart', parent: agentId, selectors: ['k8s:ns:shop', 'k8s:sa:cart'] });
    const socket = path.join(site.directory, 'agent', 'broker', 'broker.sock');
    const port = await freePort();
    addresses = { unix: `unix://${socket}`, tcp: `127.0.0.1:${String(port)}` };
    agent = await site.startAgent('agent', {
      token: joined.token,
      config: `
workload: { kubernetes: { source: kubelet, url: '${cluster.url}', node_name: node-1, ca: ${site.directory}/kube-ca.pem, token_file: ${site.directory}/kube-token, relist_interval: 1s } }
authorized_delegates: ['${idOf('mesh')}']
broker:
  socket_path: ${socket}
  listen: { port: ${String(port)} }
  callers:
    - { spiffe_id: '${idOf('mesh')}' }
    - { spiffe_id: '${idOf('narrow')}', references: [kubernetes], namespaces: [other], audiences: [db] }
`,
    });
    await agent.until('sync.connected');
  }, 180_000);
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  });

  const go = (who: 'mesh' | 'narrow' | 'stranger', ...args: readonly string[]): Running =>
    site.own(startRunning([programs[who], ...args], { env: { SPIFFE_ENDPOINT_SOCKET: agent.endpoint } }));
  const broker = (who: 'mesh' | 'narrow' | 'stranger', over: 'unix' | 'tcp', ...args: readonly string[]): Running =>
    go(who, 'broker', '-broker', addresses[over], '-agent', agentId, ...args);
  const delegate = (who: 'mesh' | 'stranger', ...args: readonly string[]): Running => go(who, 'delegate', '-admin', `unix://${agent.adminSocket}`, ...args);
  const workload = (): Running => site.own(startRunning([programs.web, '-e', 'process.stdin.resume()']));
  const leave = async (running: Running): Promise<void> => {
    running.child.stdin?.end();
    if (running.child.exitCode === null) await once(running.child, 'exit');
  };
  const refusal = async (running: Running): Promise<unknown> => {
    const { code, reasons } = await running.until('refused');
    return [code, ...(reasons as readonly string[])];
  };

  it('BRK-19, BRK-26: the Broker API gives SVIDs of a process across a rotation, until it ends', async () => {
    const web = workload();
    const stream = broker('mesh', 'unix', '-reference', `pid:${String(web.pid)}`);
    const first = await stream.until('svids');
    expect(first).toMatchObject({ svids: [{ id: idOf('web'), serial: expect.stringMatching(/^[0-9a-f]{32}$/) }] });
    const token = broker('mesh', 'unix', '-reference', `pid:${String(web.pid)}`, '-audience', 'db');
    expect(await token.until('token')).toMatchObject({ id: idOf('web') });
    const bundles = broker('mesh', 'unix', '-reference', `pid:${String(web.pid)}`, '-bundles');
    expect(await bundles.until('bundles')).toMatchObject({ x509: [`spiffe://${trustDomain}`], jwt: [`spiffe://${trustDomain}`] });
    const second = await stream.until((line) => line.event === 'svids' && JSON.stringify(line['svids']) !== JSON.stringify(first['svids']));
    expect(second).toMatchObject({ svids: [{ id: idOf('web') }] });
    await leave(web);
    expect(await refusal(stream)).toEqual(['NotFound', 'WORKLOAD_NOT_FOUND']);
  });

  it('BRK-13, BRK-27: and those of a pod by name and by uid, over TCP as well, until the pod is gone', async () => {
    const { metadata } = podOf('cart-1', { namespace: 'shop', serviceAccount: 'cart' });
    const byName = broker('mesh', 'tcp', '-reference', 'pod:shop/cart-1');
    expect(await byName.until('svids'), byName.text()).toMatchObject({ svids: [{ id: idOf('shop/cart') }] });
    const byUid = broker('mesh', 'unix', '-reference', `uid:${metadata.uid}`);
    expect(await byUid.until('svids'), byUid.text()).toMatchObject({ svids: [{ id: idOf('shop/cart') }] });
    expect(await refusal(broker('narrow', 'tcp', '-reference', 'pod:shop/cart-1'))).toEqual(['PermissionDenied']);
    cluster.deletePod({ metadata });
    expect(await refusal(byName)).toEqual(['NotFound', 'WORKLOAD_NOT_FOUND']);
    expect(await refusal(byUid)).toEqual(['NotFound', 'WORKLOAD_NOT_FOUND']);
  });

  it.skipIf(withoutRust !== undefined)(`BRK-19, BRK-26: and so it does for a client in Rust ${withoutRust ?? ''}`, async () => {
    const program = path.join(site.directory, 'bin', 'rust-mesh');
    await copyFile(rust, program);
    await site.entry({ path: '/mesh', parent: agentId, selectors: [`unix:path:${program}`] });
    const web = workload();
    const args = [addresses.unix.replace('unix://', ''), agentId, `pid:2147483647`, `pid:${String(web.pid)}`];
    const mesh = site.own(startRunning([program, ...args], { env: { SPIFFE_ENDPOINT_SOCKET: agent.endpoint } }));
    expect(await mesh.until('svids'), mesh.text()).toMatchObject({ reference: args[3], svids: [{ id: idOf('web'), chain: expect.any(Number), key: expect.any(Number) }] });
    expect(mesh.lines.slice(0, 2)).toMatchObject([{ event: 'refused', reference: args[2], code: 'NotFound' }, { event: 'tokens', ids: [idOf('web')] }]);
    const before = mesh.lines.length;
    await leave(web);
    expect(await mesh.until('refused', { from: before })).toMatchObject({ reference: args[3], code: 'NotFound' });
  });

  it.each([
    ['BRK-22: nothing to refer to', 'mesh', 'unix', [], ['InvalidArgument', 'WORKLOAD_REFERENCE_INVALID']],
    ['BRK-22: a negative number', 'mesh', 'unix', ['-reference', 'pid:-5'], ['InvalidArgument', 'WORKLOAD_REFERENCE_INVALID']],
    ['BRK-23: nobody’s number', 'mesh', 'unix', ['-reference', 'pid:2147483647'], ['NotFound', 'WORKLOAD_NOT_FOUND']],
    ['BRK-23: no such pod', 'mesh', 'tcp', ['-reference', 'pod:shop/other'], ['NotFound', 'WORKLOAD_NOT_FOUND']],
    ['T-25: a process over TCP', 'mesh', 'tcp', ['-reference', 'pid:1'], ['InvalidArgument', 'WORKLOAD_REFERENCE_INVALID']],
    ['BRKEP-03: the header written otherwise', 'mesh', 'unix', ['-reference', 'pid:1', '-header', 'True'], ['InvalidArgument']],
    ['BRK-15: a caller that is not on the list', 'stranger', 'unix', ['-reference', 'pid:1'], ['PermissionDenied']],
    ['BRK-15: nor over TCP', 'stranger', 'tcp', ['-reference', 'pod:shop/cart-1'], ['PermissionDenied']],
    ['BRK-16: a kind of reference that is not for it', 'narrow', 'unix', ['-reference', 'pid:1'], ['PermissionDenied']],
    ['BRK-16: an audience that is not for it', 'narrow', 'tcp', ['-reference', 'pod:shop/cart-1', '-audience', 'web'], ['PermissionDenied']],
  ] as const)('%s is refused', async (_rule, who, over, args, expected) => {
    expect(await refusal(broker(who, over, ...args))).toEqual(expected);
  });

  it('delegated identity gives SVIDs, tokens and bundles by process and by selectors', async () => {
    const web = workload();
    const byProcess = delegate('mesh', '-pid', String(web.pid));
    expect(await byProcess.until('svids'), byProcess.text()).toMatchObject({ svids: [{ id: `${trustDomain}/web`, serial: expect.stringMatching(/^[0-9a-f]{32}$/) }], federatesWith: [] });
    const bySelectors = delegate('mesh', '-selectors', `unix:uid:0,unix:path:${programs.web}`);
    expect(await bySelectors.until('svids')).toMatchObject({ svids: [{ id: `${trustDomain}/web` }] });
    expect(await delegate('mesh', '-pid', String(web.pid), '-audience', 'db').until('token')).toMatchObject({ id: `${trustDomain}/web` });
    expect(await delegate('mesh', '-bundles').until('bundles')).toMatchObject({ x509: [`spiffe://${trustDomain}`], jwt: [`spiffe://${trustDomain}`] });
    expect(await delegate('mesh', '-selectors', 'unix:uid:4711').until('svids')).toMatchObject({ svids: [] });
    await leave(web);
    expect(await refusal(byProcess)).toEqual(['NotFound']);
  });

  it.each([
    ['neither', 'mesh', [], 'InvalidArgument', 'must provide either selectors or non-zero PID, but not both'],
    ['both', 'mesh', ['-pid', '1', '-selectors', 'a:b'], 'InvalidArgument', 'must provide either selectors or non-zero PID, but not both'],
    ['a selector without a value', 'mesh', ['-selectors', 'a:'], 'InvalidArgument', 'could not parse provided selectors'],
    ['a token for nobody', 'mesh', ['-selectors', 'a:b', '-audience', 'db'], 'PermissionDenied', 'no identity issued'],
    ['who is no delegate', 'stranger', ['-selectors', 'a:b'], 'PermissionDenied', 'caller not configured as an authorized delegate'],
  ] as const)('delegated identity refuses %s', async (_what, who, args, code, message) => {
    expect(await delegate(who, ...args).until('refused')).toMatchObject({ code, message });
  });
});
