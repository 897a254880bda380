/**
 * SPIRE's own programs, unmodified, against ours. They are not built here: `STEEPLE_SPIRE_AGENT` and `STEEPLE_SPIRE_SERVER`
 * name executables, and what needs one that is not named is skipped and says so.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Cluster, createCluster } from '../help/kubernetes.ts';
import { podOf, uidOf } from '../help/kubernetes-pods.ts';
import { type Finished, runToEnd, type Running, startRunning } from '../help/running.ts';
import { type AgentProcess, createSite, type Site, trustDomain } from '../help/site.ts';
import { buildProgram, withoutGo } from './program.ts';

const spireAgent = process.env['STEEPLE_SPIRE_AGENT'];
const spireServer = process.env['STEEPLE_SPIRE_SERVER'];
const withoutAgent = spireAgent === undefined ? 'skipped: STEEPLE_SPIRE_AGENT names no spire-agent' : undefined;
const withoutServer = spireServer === undefined ? 'skipped: STEEPLE_SPIRE_SERVER names no spire-server' : undefined;
const idOf = (name: string): string => `spiffe://${trustDomain}/${name}`;

async function until(check: () => Promise<boolean>, what: () => string): Promise<void> {
  const end = Date.now() + 40_000;
  while (!(await check())) {
    if (Date.now() > end) throw new Error(`it did not come about: ${what()}`);
    await sleep(500);
  }
}

describe.skipIf(withoutAgent !== undefined)(`spire-agent at our server ${withoutAgent ?? ''}`, () => {
  let site: Site;
  let agentId: string;
  let running: Running;
  let socket: string;

  const startAgent = async (token: string | undefined): Promise<void> => {
    const base = path.join(site.directory, 'spire');
    await mkdir(base, { recursive: true });
    socket = path.join(base, 'api.sock');
    const config = path.join(base, 'agent.conf');
    await writeFile(
      config,
      `agent {
  data_dir = "${base}/data"
  server_address = "127.0.0.1"
  server_port = "${site.port}"
  socket_path = "${socket}"
  trust_bundle_path = "${site.bundleFile}"
  trust_domain = "${trustDomain}"
  log_level = "DEBUG"
}
plugins {
  KeyManager "disk" { plugin_data { directory = "${base}/data" } }
  NodeAttestor "join_token" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
}
`,
    );
    await mkdir(path.join(base, 'data'), { recursive: true });
    running = site.own(startRunning([spireAgent ?? '', 'run', '-config', config, ...(token === undefined ? [] : ['-joinToken', token])]));
    await until(() => runToEnd([spireAgent ?? '', 'healthcheck', '-socketPath', socket]).then(({ code }) => code === 0), () => running.text());
  };
  const fetched = (): Promise<Finished> => runToEnd([spireAgent ?? '', 'api', 'fetch', 'x509', '-socketPath', socket]);

  beforeAll(async () => {
    // Short lives, so that the agent renews its own SVID and its workloads' while it is watched.
    site = await createSite({ server: 'svids: { agent_ttl: 30s }' });
    await site.startServer();
    await site.writeBundle();
    const joined = await site.token();
    agentId = joined.agentId;
    await startAgent(joined.token);
  });
  afterAll(async () => site?.[Symbol.asyncDispose]());

  it('joins with a token, and is an agent like any other', async () => {
    const agents = await site.ask<readonly { id: string; attestationType: string; banned: boolean }[]>('agent', 'list');
    expect(agents).toMatchObject([{ id: agentId, attestationType: 'join_token', banned: false }]);
  });

  it('learns of an entry by its polls and fetches SVIDs for workloads', async () => {
    const uid = String(process.getuid?.());
    await site.entry({ path: '/web', parent: agentId, selectors: [`unix:uid:${uid}`], flags: ['--x509-svid-ttl', '12s', '--dns', 'web.example'] });
    await until(() => fetched().then(({ stdout }) => stdout.includes(idOf('web'))), () => running.text());
    const jwt = await runToEnd([spireAgent ?? '', 'api', 'fetch', 'jwt', '-audience', 'db', '-socketPath', socket]);
    expect(jwt, jwt.stderr).toMatchObject({ code: 0 });
    const [, token = ''] = /\n\t(\S+\.\S+\.\S+)/.exec(jwt.stdout) ?? [];
    const valid = await runToEnd([spireAgent ?? '', 'api', 'validate', 'jwt', '-audience', 'db', '-svid', token, '-socketPath', socket]);
    expect(valid, valid.stderr).toMatchObject({ code: 0 });
    expect(valid.stdout).toContain(idOf('web'));
  });

  it.skipIf(withoutGo !== undefined)(`renews what it serves and itself ${withoutGo ?? ''}`, async () => {
    const watching = site.own(startRunning([buildProgram(), 'x509source', '-updates', '3', '-for', '60s'], { env: { SPIFFE_ENDPOINT_SOCKET: `unix://${socket}` } }));
    expect((await watching.exit).code, watching.text()).toBe(0);
    await until(
      () => site.ask<readonly unknown[]>('audit', 'search', '--type', 'agent.renewed', '--subject', agentId).then((renewals) => renewals.length > 0),
      () => running.text(),
    );
    const held = await site.ask<readonly { agentId: string }[]>('ledger', 'list', '--spiffe-id', idOf('web'));
    expect(held.length).toBeGreaterThanOrEqual(3);
    expect(held.every((credential) => credential.agentId === agentId)).toBe(true);
  });

  it('loses an entry that is deleted', async () => {
    const [entry] = await site.ask<readonly { id: string }[]>('entry', 'show', '--spiffe-id', idOf('web'));
    await site.steeple('entry', 'delete', '--id', entry?.id ?? '');
    await until(() => fetched().then(({ code, stdout }) => code !== 0 && !stdout.includes(idOf('web'))), () => running.text());
  });

  it('ends when it is banned', async () => {
    expect((await site.steeple('agent', 'ban', '--spiffe-id', agentId)).code).toBe(0);
    await running.exit;
    expect(running.text()).toContain('banned');
  });
});

const podToken = 'header.a-projected-token.signature';

/** An API server that knows `podToken` as an agent's, and `server-token` as a server's own. */
async function clusterWithAgent(): Promise<Cluster> {
  const cluster = await createCluster();
  const pod = podOf('agent-v5wgr', { namespace: 'spire', serviceAccount: 'spire-agent', labels: { team: 'a' } });
  cluster.setPod(pod);
  cluster.nodes.set('node-1', { metadata: { name: 'node-1', uid: uidOf('node-1'), labels: { zone: 'eu-1' } } });
  cluster.tokens.add('server-token');
  const extra = { 'authentication.kubernetes.io/pod-name': [pod.metadata.name], 'authentication.kubernetes.io/pod-uid': [pod.metadata.uid] };
  cluster.reviews.set(podToken, { user: { username: 'system:serviceaccount:spire:spire-agent', extra }, audiences: ['spire-server'] });
  return cluster;
}

describe.skipIf(withoutAgent !== undefined)(`spire-agent in a pod, at our server ${withoutAgent ?? ''}`, () => {
  let site: Site;
  let cluster: Cluster;
  let running: Running;
  let socket: string;
  let tokenFile: string;

  const startAgent = (): void => {
    const base = path.join(site.directory, 'spire');
    running = site.own(startRunning([spireAgent ?? '', 'run', '-config', path.join(base, 'agent.conf')]));
  };

  beforeAll(async () => {
    cluster = await clusterWithAgent();
    site = await createSite();
    await writeFile(path.join(site.directory, 'kube-ca.pem'), cluster.authority.ca);
    await writeFile(path.join(site.directory, 'kube-token'), 'server-token', { mode: 0o600 });
    await site.configureServer(`attestors:
  - type: k8s_psat
    clusters:
      - name: c1
        api_server: { url: '${cluster.url}', ca: ${site.directory}/kube-ca.pem, token_file: ${site.directory}/kube-token }
        service_account_allow_list: ['spire:spire-agent']
        allowed_node_label_keys: [zone]
        allowed_pod_label_keys: [team]
svids: { agent_ttl: 20s }
`);
    await site.startServer();
    await site.writeBundle();
    const base = path.join(site.directory, 'spire');
    socket = path.join(base, 'api.sock');
    tokenFile = path.join(base, 'token');
    await mkdir(path.join(base, 'data'), { recursive: true });
    await writeFile(tokenFile, podToken);
    await writeFile(
      path.join(base, 'agent.conf'),
      `agent {
  data_dir = "${base}/data"
  server_address = "127.0.0.1"
  server_port = "${site.port}"
  socket_path = "${socket}"
  trust_bundle_path = "${site.bundleFile}"
  trust_domain = "${trustDomain}"
  log_level = "DEBUG"
}
plugins {
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "k8s_psat" { plugin_data { cluster = "c1" token_path = "${tokenFile}" } }
  WorkloadAttestor "unix" { plugin_data {} }
}
`,
    );
    startAgent();
    await until(() => runToEnd([spireAgent ?? '', 'healthcheck', '-socketPath', socket]).then(({ code }) => code === 0), () => running.text());
  });
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  });

  it('joins by its projected token, with the ID and the selectors that SPIRE gives', async () => {
    const uid = uidOf('node-1');
    const pod = podOf('agent-v5wgr', { namespace: 'spire' }).metadata;
    const agents = await site.ask<readonly { id: string; attestationType: string; selectors: readonly string[] }[]>('agent', 'list');
    expect(agents).toMatchObject([{ id: `spiffe://${trustDomain}/spire/agent/k8s_psat/c1/${uid}`, attestationType: 'k8s_psat' }]);
    expect(agents[0]?.selectors.toSorted()).toEqual(
      [
        'agent_node_ip:10.1.0.4',
        'agent_node_label:zone:eu-1',
        'agent_node_name:node-1',
        `agent_node_uid:${uid}`,
        'agent_ns:spire',
        'agent_pod_label:team:a',
        'agent_pod_name:agent-v5wgr',
        `agent_pod_uid:${pod.uid}`,
        'agent_sa:spire-agent',
        'cluster:c1',
      ].map((value) => `k8s_psat:${value}`),
    );
  });

  it('attests again instead of renewing', async () => {
    const reviews = (): number => cluster.requests.filter(({ path: asked }) => asked.endsWith('/tokenreviews')).length;
    await until(() => Promise.resolve(reviews() >= 2), () => running.text());
    expect(await site.ask<readonly unknown[]>('agent', 'list')).toHaveLength(1);
  });

  it('does not join with a token that the API server does not know', async () => {
    await running.end();
    await writeFile(tokenFile, 'header.forged.signature');
    startAgent();
    await until(() => Promise.resolve(running.text().includes('token not authenticated according to TokenReview API')), () => running.text());
  });
});

describe.skipIf(withoutServer !== undefined)(`spire-server's commands at our operators' socket ${withoutServer ?? ''}`, () => {
  let site: Site;

  beforeEach(async () => {
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
  });
  afterEach(async () => site[Symbol.asyncDispose]());

  const spire = (...args: readonly string[]): Promise<Finished> => runToEnd([spireServer ?? '', ...args, '-socketPath', site.socket]);
  const said = async (...args: readonly string[]): Promise<string> => {
    const { code, stdout, stderr } = await spire(...args);
    expect(code, `${args.join(' ')}: ${stderr}${stdout}`).toBe(0);
    return stdout;
  };

  it('creates, shows, updates, counts and deletes entries', async () => {
    const parent = idOf('parent');
    const created = await said('entry', 'create', '-spiffeID', idOf('a'), '-parentID', parent, '-selector', 'unix:uid:1', '-selector', 'unix:gid:2', '-x509SVIDTTL', '120', '-hint', 'h', '-dns', 'a.example');
    const [, id = ''] = /Entry ID\s*:\s*(\S+)/.exec(created) ?? [];
    expect(id).not.toBe('');
    const again = await spire('entry', 'create', '-spiffeID', idOf('a'), '-parentID', parent, '-selector', 'unix:uid:1', '-selector', 'unix:gid:2');
    expect(again.code).not.toBe(0);
    expect(`${again.stdout}${again.stderr}`).toMatch(/AlreadyExists|similar/);
    const shown = await said('entry', 'show', '-entryID', id);
    for (const part of [idOf('a'), parent, 'unix:uid:1', 'unix:gid:2', '120', 'a.example']) expect(shown).toContain(part);
    expect(await said('entry', 'show', '-selector', 'unix:uid:1', '-matchSelectorsOn', 'superset')).toContain(id);
    expect(await said('entry', 'show', '-spiffeID', idOf('none'))).toContain('Found 0 entries');
    await said('entry', 'update', '-entryID', id, '-spiffeID', idOf('a'), '-parentID', parent, '-selector', 'unix:uid:3');
    expect(await said('entry', 'show', '-entryID', id)).toContain('unix:uid:3');
    expect(await said('entry', 'count')).toContain('1');
    await said('entry', 'delete', '-entryID', id);
    expect(await said('entry', 'count')).toContain('0');
  });

  it('makes tokens, lists, shows, counts and evicts agents', async () => {
    const [, token = ''] = /Token: (\S+)/.exec(await said('token', 'generate', '-spiffeID', idOf('node'))) ?? [];
    const agent = await site.startAgent('agent', { token });
    await agent.until('sync.connected');
    const agentId = `spiffe://${trustDomain}/spire/agent/join_token/${token}`;
    expect(await said('agent', 'list')).toContain(agentId);
    expect(await said('agent', 'show', '-spiffeID', agentId)).toContain('join_token');
    expect(await said('agent', 'count')).toContain('1');
    await said('agent', 'evict', '-spiffeID', agentId);
    expect((await agent.exit).code).toBe(4);
  });

  it('shows the bundle, keeps those of others, mints and answers the health check', async () => {
    const own = await said('bundle', 'show');
    expect(own).toContain('BEGIN CERTIFICATE');
    expect(own.trim()).toBe((await site.steeple('bundle', 'show')).stdout.trim());
    const document = path.join(site.directory, 'other.json');
    await writeFile(document, await said('bundle', 'show', '-format', 'spiffe'));
    expect(await said('bundle', 'set', '-id', 'spiffe://other.example', '-format', 'spiffe', '-path', document)).toContain('bundle set');
    expect(await said('bundle', 'list')).toContain('other.example');
    expect(await said('bundle', 'count')).toContain('2');
    await said('bundle', 'delete', '-id', 'spiffe://other.example');
    expect(await said('x509', 'mint', '-spiffeID', idOf('minted'))).toContain('BEGIN CERTIFICATE');
    expect((await said('jwt', 'mint', '-spiffeID', idOf('minted'), '-audience', 'db')).split('.')).toHaveLength(3);
    expect(await said('healthcheck')).toContain('healthy');
  });
});

describe.skipIf(withoutServer !== undefined)(`our agent at spire-server ${withoutServer ?? ''}`, () => {
  let site: Site;
  let server: Running;
  let agent: AgentProcess;
  let program: string;
  let agentId: string;
  const spire = async (...args: readonly string[]): Promise<string> => {
    const { code, stdout, stderr } = await runToEnd([spireServer ?? '', ...args, '-socketPath', site.socket]);
    expect(code, `${args.join(' ')}: ${stderr}${stdout}`).toBe(0);
    return stdout;
  };

  beforeAll(async () => {
    site = await createSite();
    const base = path.join(site.directory, 'server');
    await mkdir(path.dirname(site.socket), { recursive: true });
    const config = path.join(base, 'server.conf');
    await writeFile(
      config,
      `server {
  bind_address = "127.0.0.1"
  bind_port = "${site.port}"
  socket_path = "${site.socket}"
  trust_domain = "${trustDomain}"
  data_dir = "${base}/data"
  log_level = "DEBUG"
  default_x509_svid_ttl = "12s"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "${base}/store.sqlite3" } }
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
}
`,
    );
    server = site.own(startRunning([spireServer ?? '', 'run', '-config', config]));
    await until(() => runToEnd([spireServer ?? '', 'healthcheck', '-socketPath', site.socket]).then(({ code }) => code === 0), () => server.text());
    await writeFile(site.bundleFile, await spire('bundle', 'show'));
    const [, token = ''] = /Token: (\S+)/.exec(await spire('token', 'generate')) ?? [];
    agentId = `spiffe://${trustDomain}/spire/agent/join_token/${token}`;
    agent = await site.startAgent('agent', { token });
    program = await site.program('web');
  });
  afterAll(async () => site?.[Symbol.asyncDispose]());

  it('joins, polls, has SVIDs signed through the RPC of SPIRE, renews them, and gives tokens', async () => {
    expect(await spire('agent', 'list')).toContain(agentId);
    await spire('entry', 'create', '-spiffeID', idOf('web'), '-parentID', agentId, '-selector', `unix:path:${program}`);
    const watching = site.workload(program, agent, ['source']);
    await watching.until('svids', { withinMs: 40_000 });
    await watching.until('svids', { from: 1, withinMs: 40_000 });
    const fetched = site.workload(program, agent, ['fetch', 'db']);
    expect(await fetched.until('tokens'), agent.text()).toMatchObject({ tokens: [{ spiffeId: idOf('web') }] });
    expect(watching.lines.every((line) => JSON.stringify(line).includes(idOf('web')))).toBe(true);
  });

  it('ends when spire-server bans it', async () => {
    await spire('agent', 'ban', '-spiffeID', agentId);
    expect((await Promise.race([agent.exit, sleep(40_000).then(() => ({ code: agent.text() }))])).code).toBe(3);
  });
});

describe.skipIf(withoutServer !== undefined)(`our agent in a pod, at spire-server ${withoutServer ?? ''}`, () => {
  let site: Site;
  let cluster: Cluster;
  let server: Running;

  beforeAll(async () => {
    cluster = await clusterWithAgent();
    site = await createSite();
    const base = path.join(site.directory, 'server');
    await mkdir(path.dirname(site.socket), { recursive: true });
    await mkdir(path.join(site.directory, 'agent'), { recursive: true });
    await writeFile(path.join(site.directory, 'agent', 'token'), podToken);
    await writeFile(path.join(base, 'kube-ca.pem'), cluster.authority.ca);
    await writeFile(
      path.join(base, 'kubeconfig'),
      `apiVersion: v1
kind: Config
clusters: [{ name: c, cluster: { server: '${cluster.url}', certificate-authority: ${base}/kube-ca.pem } }]
users: [{ name: u, user: { token: server-token } }]
contexts: [{ name: x, context: { cluster: c, user: u } }]
current-context: x
`,
    );
    await writeFile(
      path.join(base, 'server.conf'),
      `server {
  bind_address = "127.0.0.1"
  bind_port = "${site.port}"
  socket_path = "${site.socket}"
  trust_domain = "${trustDomain}"
  data_dir = "${base}/data"
  log_level = "DEBUG"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "${base}/store.sqlite3" } }
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "k8s_psat" {
    plugin_data {
      clusters = { "c1" = { service_account_allow_list = ["spire:spire-agent"] kube_config_file = "${base}/kubeconfig" } }
    }
  }
}
`,
    );
    server = site.own(startRunning([spireServer ?? '', 'run', '-config', path.join(base, 'server.conf')]));
    await until(() => runToEnd([spireServer ?? '', 'healthcheck', '-socketPath', site.socket]).then(({ code }) => code === 0), () => server.text());
    const shown = await runToEnd([spireServer ?? '', 'bundle', 'show', '-socketPath', site.socket]);
    await writeFile(site.bundleFile, shown.stdout);
  });
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  });

  it('joins by its projected token', async () => {
    const config = `attestor: { type: k8s_psat, cluster: c1, token_file: ${site.directory}/agent/token }`;
    const agent = await site.startAgent('agent', { config });
    await agent.until('identity.attested');
    const { stdout } = await runToEnd([spireServer ?? '', 'agent', 'list', '-socketPath', site.socket]);
    expect(stdout, server.text()).toContain(`spiffe://${trustDomain}/spire/agent/k8s_psat/c1/${uidOf('node-1')}`);
  });
});
