/**
 * SPIRE's own server, unmodified, federating with ours in both directions, its commands against our trust domain service,
 * and its agent with entries that federate. They are not built here: `STEEPLE_SPIRE_SERVER` and `STEEPLE_SPIRE_AGENT` name
 * executables, and what needs one that is not named is skipped.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Finished, runToEnd, type Running, startRunning } from '../help/running.ts';
import { createSite, freePort, type Site, trustDomain } from '../help/site.ts';

const spireServer = process.env['STEEPLE_SPIRE_SERVER'];
const spireAgent = process.env['STEEPLE_SPIRE_AGENT'];
const withoutAgent = spireAgent === undefined ? 'skipped: STEEPLE_SPIRE_AGENT names no spire-agent' : undefined;
const without = spireServer === undefined ? 'skipped: STEEPLE_SPIRE_SERVER names no spire-server' : undefined;
const far = 'far.example';
const soon = { timeout: 30_000, interval: 500 } as const;

interface Shown {
  readonly trustDomainBundle?: string;
  readonly state: { readonly pending: boolean; readonly failures: number; readonly reason: string };
}

describe.skipIf(without !== undefined)(`spire-server and ours ${without ?? ''}`, () => {
  let site: Site;
  let running: Running;
  let socket: string;
  let ours: number;
  let theirs: number;
  const document = (name: string): string => path.join(site.directory, `${name}.json`);

  const spire = (words: string, ...args: readonly string[]): Promise<Finished> => runToEnd([spireServer ?? '', ...words.split(' '), '-socketPath', socket, ...args]);
  const spireAtOurs = (words: string, ...args: readonly string[]): Promise<Finished> =>
    runToEnd([spireServer ?? '', ...words.split(' '), '-socketPath', site.socket, ...args]);
  const rootsIn = (bundle: string): number => (JSON.parse(bundle) as { keys: { use: string }[] }).keys.filter(({ use }) => use === 'x509-svid').length;

  beforeAll(async () => {
    [ours, theirs] = await Promise.all([freePort(), freePort()]);
    site = await createSite({
      server: `federation:
  fetch: { shortest: 1s, allow_addresses: [127.0.0.1] }
  endpoint: { address: 127.0.0.1, port: ${ours}, refresh_hint: 1s }`,
    });
    const base = path.join(site.directory, 'spire');
    socket = path.join(base, 'api.sock');
    await mkdir(base);
    const config = path.join(base, 'server.conf');
    await writeFile(
      config,
      `server {
  bind_address = "127.0.0.1"
  bind_port = "${await freePort()}"
  socket_path = "${socket}"
  trust_domain = "${far}"
  data_dir = "${base}"
  log_level = "DEBUG"
  federation {
    bundle_endpoint {
      address = "127.0.0.1"
      port = ${theirs}
      refresh_hint = "5s"
      profile "https_spiffe" {}
    }
  }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "${base}/datastore.sqlite3" } }
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
}
`,
    );
    running = site.own(startRunning([spireServer ?? '', 'run', '-config', config]));
    await site.startServer();
    for (let tries = 0; (await spire('healthcheck')).code !== 0; tries += 1) {
      if (tries > 100) throw new Error(running.text());
      await sleep(500);
    }
    await writeFile(document('ours'), (await site.steeple('bundle', 'show', '--format', 'spiffe')).stdout);
    await writeFile(document('theirs'), (await spire('bundle show', '-format', 'spiffe')).stdout);
  }, 120_000);
  afterAll(async () => site?.[Symbol.asyncDispose]());

  const shown = (): Promise<Shown> => site.ask<Shown>('federation', 'show', '--trust-domain', far);

  it('its commands make, show, change, refresh and end relationships of our server', async () => {
    const endpoint = ['-trustDomain', far, '-bundleEndpointURL', `https://127.0.0.1:${theirs}`];
    const made = await spireAtOurs('federation create', ...endpoint, '-bundleEndpointProfile', 'https_web');
    expect(made, made.stderr).toMatchObject({ code: 0 });
    const listed = await spireAtOurs('federation list');
    expect(listed.stdout).toContain(`https://127.0.0.1:${theirs}`);
    expect(listed.stdout).toContain('https_web');
    // It serves an SVID, which is nothing to the web's authorities.
    expect((await spireAtOurs('federation refresh', '-id', far)).code).not.toBe(0);
    const profile = ['-bundleEndpointProfile', 'https_spiffe', '-endpointSpiffeID', `spiffe://${far}/spire/server`];
    const changed = await spireAtOurs('federation update', ...endpoint, ...profile, '-trustDomainBundlePath', document('theirs'), '-trustDomainBundleFormat', 'spiffe');
    expect(changed, changed.stderr).toMatchObject({ code: 0 });
    const refreshed = await spireAtOurs('federation refresh', '-id', far);
    expect(refreshed, refreshed.stderr).toMatchObject({ code: 0 });
    const one = await spireAtOurs('federation show', '-trustDomain', far);
    expect(one.stdout).toContain(`spiffe://${far}/spire/server`);
    expect((await spireAtOurs('federation create', ...endpoint, ...profile)).stderr + (await spireAtOurs('federation create', ...endpoint, ...profile)).stdout).toContain('failed to create federation relationship');
    const ended = await spireAtOurs('federation delete', '-id', far);
    expect(ended, ended.stderr).toMatchObject({ code: 0 });
    expect((await spireAtOurs('federation list')).stdout).not.toContain(far);
  }, 60_000);

  it('we follow its bundle, before its new authority signs and after', async () => {
    const profile = ['--bundle-endpoint-profile', 'https_spiffe', '--endpoint-spiffe-id', `spiffe://${far}/spire/server`];
    await site.ask('federation', 'create', '--trust-domain', far, '--bundle-endpoint-url', `https://127.0.0.1:${theirs}`, ...profile, '--trust-domain-bundle-path', document('theirs'), '--trust-domain-bundle-format', 'spiffe');
    await expect.poll(async () => (await shown()).state, soon).toMatchObject({ pending: false, failures: 0, reason: '' });
    const prepared = await spire('localauthority x509 prepare', '-output', 'json');
    expect(prepared, prepared.stderr).toMatchObject({ code: 0 });
    await expect.poll(async () => rootsIn((await shown()).trustDomainBundle ?? '{"keys":[]}'), soon).toBe(2);
    const { prepared_authority: { authority_id: id } } = JSON.parse(prepared.stdout) as { prepared_authority: { authority_id: string } };
    expect(await spire('localauthority x509 activate', '-authorityID', id)).toMatchObject({ code: 0 });
    const refreshed = await site.steeple('federation', 'refresh', far);
    expect(refreshed, refreshed.stderr).toMatchObject({ code: 0 });
  }, 90_000);

  it('it follows ours, before our new authority signs and after', async () => {
    const profile = ['-bundleEndpointProfile', 'https_spiffe', '-endpointSpiffeID', `spiffe://${trustDomain}/spire/server`];
    const made = await spire('federation create', '-trustDomain', trustDomain, '-bundleEndpointURL', `https://127.0.0.1:${ours}`, ...profile, '-trustDomainBundlePath', document('ours'), '-trustDomainBundleFormat', 'spiffe');
    expect(made, made.stderr).toMatchObject({ code: 0 });
    const [prepared] = await site.ask<readonly [{ readonly id: string }]>('authority', 'prepare', '--kind', 'x509');
    const held = async (): Promise<number> => {
      const refreshed = await spire('federation refresh', '-id', trustDomain);
      expect(refreshed, refreshed.stderr + running.text().slice(-2_000)).toMatchObject({ code: 0 });
      return rootsIn((await spire('bundle list', '-id', trustDomain, '-format', 'spiffe')).stdout);
    };
    expect(await held()).toBe(2);
    await site.ask('authority', 'activate', '--kind', 'x509', '--id', prepared.id);
    expect(await held()).toBe(2);
  }, 90_000);
});

describe.skipIf(withoutAgent !== undefined)(`spire-agent and a bundle that is still to come ${withoutAgent ?? ''}`, () => {
  let site: Site;
  beforeAll(async () => {
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
  }, 120_000);
  afterAll(async () => site?.[Symbol.asyncDispose]());

  it('serves workloads without it, and with it once it is there', async () => {
    const base = path.join(site.directory, 'spire');
    const socket = path.join(base, 'api.sock');
    const config = path.join(base, 'agent.conf');
    await mkdir(path.join(base, 'data'), { recursive: true });
    await writeFile(
      config,
      `agent {
  data_dir = "${base}/data"
  server_address = "127.0.0.1"
  server_port = "${site.port}"
  socket_path = "${socket}"
  trust_bundle_path = "${site.bundleFile}"
  trust_domain = "${trustDomain}"
}
plugins {
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`,
    );
    // Nothing is at the discard port, and no such address may be connected to.
    await site.ask('federation', 'create', '--trust-domain', far, '--bundle-endpoint-url', 'https://127.0.0.1:9/', '--bundle-endpoint-profile', 'https_web');
    const { token, agentId } = await site.token();
    const uid = String(process.getuid?.());
    await site.entry({ path: '/web', parent: agentId, selectors: [`unix:uid:${uid}`], flags: ['--federates-with', far] });
    const agent = site.own(startRunning([spireAgent ?? '', 'run', '-config', config, '-joinToken', token]));
    const fetched = (): Promise<Finished> => runToEnd([spireAgent ?? '', 'api', 'fetch', 'x509', '-socketPath', socket, '-output', 'json']);
    interface Answer {
      readonly svids: readonly { readonly spiffe_id: string }[];
      readonly federated_bundles: Readonly<Record<string, string>>;
    }
    const answer = async (): Promise<readonly [string | undefined, readonly string[]] | string> => {
      const { code, stdout, stderr } = await fetched();
      if (code !== 0) return stderr;
      const { svids, federated_bundles: bundles } = JSON.parse(stdout) as Answer;
      return [svids[0]?.spiffe_id, Object.keys(bundles)];
    };
    await expect.poll(answer, { timeout: 60_000, interval: 500, message: agent.text() }).toEqual([`spiffe://${trustDomain}/web`, []]);
    const set = await site.steeple('bundle', 'set', '--id', far, '--path', site.bundleFile);
    expect(set, set.stderr).toMatchObject({ code: 0 });
    await expect.poll(answer, { timeout: 30_000, interval: 500 }).toEqual([`spiffe://${trustDomain}/web`, [`spiffe://${far}`]]);
  }, 120_000);
});
