/**
 * SPIRE's own programs, unmodified, and ours prove nodes to each other by an emulated TPM. `STEEPLE_SPIRE_AGENT` and
 * `STEEPLE_SPIRE_SERVER` name executables; what needs one that is not named, or swtpm, is skipped and says so.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withoutSize } from '../../runtime/tpm/structures.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { authorityCalled } from '../help/devid.ts';
import { runToEnd, startRunning, type Running } from '../help/running.ts';
import { createSite, trustDomain, type AgentProcess, type Site } from '../help/site.ts';
import { startSwtpm, withoutSwtpm, type ProvisionedDevid, type Swtpm } from '../help/swtpm.ts';

const spireAgent = process.env['STEEPLE_SPIRE_AGENT'];
const spireServer = process.env['STEEPLE_SPIRE_SERVER'];
const withoutAgent = spireAgent === undefined ? 'skipped: STEEPLE_SPIRE_AGENT names no spire-agent' : withoutSwtpm();
const withoutServer = spireServer === undefined ? 'skipped: STEEPLE_SPIRE_SERVER names no spire-server' : withoutSwtpm();
const devidRoot = authorityCalled('DevID Root');

async function until(check: () => Promise<boolean>, what: () => string): Promise<void> {
  const end = Date.now() + 60_000;
  while (!(await check())) {
    if (Date.now() > end) throw new Error(`it did not come about: ${what()}`);
    await sleep(500);
  }
}

interface Ground {
  readonly site: Site;
  readonly tpm: Swtpm;
  /** Paths of the PEM of both kinds of authorities. */
  readonly devidAuthorities: string;
  readonly endorsementAuthorities: string;
}

async function startGround(): Promise<Ground> {
  const site = await createSite();
  const tpm = await startSwtpm();
  const [devidAuthorities, endorsementAuthorities] = [path.join(site.directory, 'devid-ca.pem'), path.join(site.directory, 'ek-ca.pem')];
  await writeFile(devidAuthorities, formatPemCertificates([devidRoot.certificate]));
  await writeFile(endorsementAuthorities, formatPemCertificates([tpm.endorsementAuthority]));
  return { site, tpm, devidAuthorities, endorsementAuthorities };
}

async function agentIdOf(devid: ProvisionedDevid): Promise<string> {
  const leaf = new X509Certificate(await readFile(devid.certificate));
  return `spiffe://${trustDomain}/spire/agent/tpm_devid/${createHash('sha1').update(leaf.raw).digest('hex')}`;
}

const kinds = [
  ['RSA', 'rsa2048:rsassa-sha256:null'],
  ['P-256', 'ecc256:ecdsa-sha256:null'],
] as const;
const selectors = ['subject:cn:device-1', 'issuer:cn:DevID Root', `ca:fingerprint:${createHash('sha1').update(devidRoot.certificate).digest('hex')}`];

describe.skipIf(withoutAgent !== undefined)(`spire-agent with a TPM, at our server ${withoutAgent ?? ''}`, () => {
  let ground: Ground;

  beforeAll(async () => {
    ground = await startGround();
    const { site, devidAuthorities, endorsementAuthorities } = ground;
    await site.configureServer(`attestors:
  - { type: tpm_devid, devid_ca_path: ${devidAuthorities}, endorsement_ca_path: ${endorsementAuthorities} }
svids: { agent_ttl: 20s }
`);
    await site.startServer();
    await site.writeBundle();
  });
  afterAll(async () => {
    await ground?.site[Symbol.asyncDispose]();
    await ground?.tpm[Symbol.asyncDispose]();
  });

  const startAgent = async (name: string, devid: ProvisionedDevid): Promise<Running & { readonly socket: string }> => {
    const { site, tpm } = ground;
    const base = path.join(site.directory, name);
    const socket = path.join(base, 'api.sock');
    await mkdir(path.join(base, 'data'), { recursive: true });
    // SPIRE takes what the TPM gave without the sizes that tpm2-tools write.
    for (const [from, to] of [[devid.privateBlob, 'devid.priv'], [devid.publicBlob, 'devid.pub']] as const) {
      await writeFile(path.join(base, to), withoutSize(await readFile(from)));
    }
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
  NodeAttestor "tpm_devid" {
    plugin_data {
      tpm_device_path = "${tpm.socket}"
      devid_cert_path = "${devid.certificate}"
      devid_priv_path = "${base}/devid.priv"
      devid_pub_path = "${base}/devid.pub"
    }
  }
  WorkloadAttestor "unix" { plugin_data {} }
}
`,
    );
    return { ...site.own(startRunning([spireAgent ?? '', 'run', '-config', path.join(base, 'agent.conf')])), socket };
  };

  it.each(kinds)('joins by a DevID of %s, with the ID and the selectors that SPIRE gives, and attests again', async (name, algorithm) => {
    const { site, tpm } = ground;
    const devid = await tpm.provision(name, devidRoot, { algorithm });
    const agentId = await agentIdOf(devid);
    const running = await startAgent(name, devid);
    await until(() => runToEnd([spireAgent ?? '', 'healthcheck', '-socketPath', running.socket]).then(({ code }) => code === 0), () => running.text());
    const agents = await site.ask<readonly { id: string; attestationType: string; selectors: readonly string[] }[]>('agent', 'list');
    const joined = agents.find(({ id }) => id === agentId);
    expect(joined?.attestationType).toBe('tpm_devid');
    expect(joined?.selectors.toSorted()).toEqual(selectors.map((value) => `tpm_devid:${value}`).toSorted());
    const attested = (): Promise<readonly unknown[]> => site.ask<readonly unknown[]>('audit', 'search', '--type', 'agent.attested', '--subject', agentId);
    await until(async () => (await attested()).length >= 2, () => running.text());
    await running.end();
  });

  it('does not join by a DevID of nobody’s', async () => {
    const { site, tpm } = ground;
    const devid = await tpm.provision('nobody', authorityCalled('DevID Root'));
    const running = await startAgent('nobody', devid);
    await running.exit;
    expect(running.text()).toContain('unable to verify DevID signature');
    const agentId = await agentIdOf(devid);
    expect((await site.ask<readonly { id: string }[]>('agent', 'list')).some(({ id }) => id === agentId)).toBe(false);
  });
});

describe.skipIf(withoutServer !== undefined)(`our agent with a TPM, at spire-server ${withoutServer ?? ''}`, () => {
  let ground: Ground;
  let server: Running;

  beforeAll(async () => {
    ground = await startGround();
    const { site, devidAuthorities, endorsementAuthorities } = ground;
    const base = path.join(site.directory, 'server');
    await mkdir(path.dirname(site.socket), { recursive: true });
    await writeFile(
      path.join(base, 'server.conf'),
      `server {
  bind_address = "127.0.0.1"
  bind_port = "${site.port}"
  socket_path = "${site.socket}"
  trust_domain = "${trustDomain}"
  data_dir = "${base}/data"
  log_level = "DEBUG"
  default_x509_svid_ttl = "60s"
  agent_ttl = "20s"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "${base}/store.sqlite3" } }
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "tpm_devid" { plugin_data { devid_ca_path = "${devidAuthorities}" endorsement_ca_path = "${endorsementAuthorities}" } }
}
`,
    );
    server = site.own(startRunning([spireServer ?? '', 'run', '-config', path.join(base, 'server.conf')]));
    await until(() => runToEnd([spireServer ?? '', 'healthcheck', '-socketPath', site.socket]).then(({ code }) => code === 0), () => server.text());
    await writeFile(site.bundleFile, (await runToEnd([spireServer ?? '', 'bundle', 'show', '-socketPath', site.socket])).stdout);
  });
  afterAll(async () => {
    await ground?.site[Symbol.asyncDispose]();
    await ground?.tpm[Symbol.asyncDispose]();
  });

  const startOurs = (name: string, devid: ProvisionedDevid): Promise<AgentProcess> =>
    ground.site.startAgent(name, {
      config: `attestor:
  type: tpm_devid
  tpm_device_path: ${ground.tpm.socket}
  devid_cert_path: ${devid.certificate}
  devid_priv_path: ${devid.privateBlob}
  devid_pub_path: ${devid.publicBlob}
`,
    });

  it.each(kinds)('joins by a DevID of %s, under the ID and the selectors that SPIRE gives, and attests again', async (name, algorithm) => {
    const { site, tpm } = ground;
    const devid = await tpm.provision(name, devidRoot, { algorithm });
    const agentId = await agentIdOf(devid);
    const agent = await startOurs(name, devid);
    expect(await agent.until('identity.attested', { withinMs: 40_000 })).toMatchObject({ agent: agentId });
    const shown = await runToEnd([spireServer ?? '', 'agent', 'show', '-spiffeID', agentId, '-socketPath', site.socket]);
    expect(shown.stdout, shown.stderr).toContain('tpm_devid');
    for (const selector of selectors) expect(shown.stdout).toContain(`tpm_devid:${selector}`);
    const from = agent.lines.length;
    expect(await agent.until('identity.attested', { withinMs: 40_000, from })).toMatchObject({ agent: agentId });
    await agent.end();
    expect(await tpm.handles()).toEqual([]);
  });
});
