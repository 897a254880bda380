/**
 * A node that proves itself with a certificate it was given: a whole server and a whole agent in this process, between them
 * TLS on a real port.
 */
import { createWatch } from '../../runtime/watch.ts';
import { createHash, X509Certificate } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { runAgentParts } from '../../agent/agent.ts';
import { parseAgentConfig } from '../../agent/config.ts';
import { attestNode } from '../../agent/node/attest.ts';
import type { EvidenceSource } from '../../agent/node/evidence.ts';
import { generateNodeKeys } from '../../agent/node/keys.ts';
import { connectAnonymously } from '../../agent/node/link.ts';
import { readTrustBundle } from '../../agent/node/trust.ts';
import { x509PopEvidence } from '../../agent/node/x509-pop.ts';
import { bundleFromMessage } from '../../proto/convert/bundle.ts';
import { loadServices } from '../../proto/load.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createHealth, type Health } from '../../runtime/health.ts';
import { silentLogger } from '../../runtime/log.ts';
import { createMetrics, type Metrics } from '../../runtime/metrics.ts';
import { createRpcClient, type RpcClient } from '../../runtime/rpc/call.ts';
import { parseServerConfig } from '../../server/config.ts';
import { runServerParts } from '../../server/server.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { keyUsage } from '../../spiffe/x509/names.ts';
import { authorityExtensions, ecPair, extension, forgeCertificate, nameOf, rsaPair, type Pair } from '../help/forge.ts';

const trustDomain = parseTrustDomain('example.org');
const services = loadServices(
  'SpiffeWorkloadAPI',
  'spire.api.server.agent.v1.Agent',
  'spire.api.server.bundle.v1.Bundle',
  'spire.api.server.entry.v1.Entry',
  'steeple.operator.v1.Operator',
);
/** Whoever made the nodes' certificates; the server knows it, and has nothing else to do with it. */
const maker = ecPair();
const makerName = nameOf('maker of nodes');
const makerCertificate = forgeCertificate({ signer: maker.privateKey, spki: maker.spki, issuer: makerName, subject: makerName, extensions: authorityExtensions() });

let directory: string;
let port: number;
let operators: RpcClient;
const cleanups: (() => unknown)[] = [];

interface NodeFiles {
  readonly certificate: string;
  readonly key: string;
  readonly intermediates: undefined;
  readonly agentId: string;
}

/** A certificate for one key, and the key of another if that is what is to be found beside it. */
async function nodeFiles(name: string, pair: Pair, beside: Pair = pair): Promise<NodeFiles> {
  const der = forgeCertificate({
    signer: maker.privateKey,
    spki: pair.spki,
    issuer: makerName,
    subject: nameOf(name),
    extensions: [extension.usage(keyUsage.digitalSignature)],
  });
  const file = (extension: string): string => path.join(directory, `${name}.${extension}`);
  await writeFile(file('pem'), formatPemCertificates([der]));
  await writeFile(file('key'), beside.privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
  const agentId = `spiffe://example.org/spire/agent/x509pop/${createHash('sha1').update(der).digest('hex')}`;
  return { certificate: file('pem'), key: file('key'), intermediates: undefined, agentId };
}

interface Agent {
  readonly over: Promise<unknown>;
  readonly metrics: Metrics;
  readonly health: Health;
  readonly workload: RpcClient;
}

async function startAgent({ certificate, key }: NodeFiles): Promise<Agent> {
  const base = path.join(directory, 'agent');
  await mkdir(base);
  const config = parseAgentConfig(`
trust_domain: example.org
server: { address: 127.0.0.1, port: ${String(port)} }
data_dir: ${base}/data
socket_path: ${base}/public/api.sock
admin_socket_path: ${base}/private/admin.sock
trust_bundle: { path: ${directory}/bundle.pem }
attestor: { type: x509pop, certificate: ${certificate}, key: ${key} }
`);
  const stop = new AbortController();
  const metrics = createMetrics();
  const health = createHealth();
  const parts = { config, version: 'test', clock: systemClock, random: () => 0.5, log: silentLogger, metrics, health, sealingKey: undefined };
  const over = runAgentParts(parts, stop.signal).then(
    () => undefined,
    (error: unknown) => error,
  );
  const workload = createRpcClient({ clock: systemClock, address: `unix:${base}/public/api.sock` });
  cleanups.push(async () => {
    workload.close();
    stop.abort(new Error('the test stops the agent'));
    await over;
  });
  return { over, metrics, health, workload };
}

const changes = (metrics: Metrics): Record<string, number> =>
  Object.fromEntries([...metrics.text().matchAll(/^steeple_agent_identity_total\{change="(\w[\w-]*)"\} (\d+)$/gm)].map(([, change, count]) => [change, Number(count)]));

async function audited(type: string): Promise<readonly { readonly outcome: string; readonly reason: string; readonly subject: string }[]> {
  const { events } = await operators.unary(services['steeple.operator.v1.Operator'].SearchAudit, { type, page_size: 100 });
  return events;
}

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'steeple-pop-'));
  cleanups.push(() => rm(directory, { recursive: true, force: true }));
  await writeFile(`${directory}/makers.pem`, formatPemCertificates([makerCertificate]));
  const config = parseServerConfig(`
trust_domain: example.org
data_dir: ${directory}/server
socket_path: ${directory}/operators/api.sock
listen: { address: 127.0.0.1 }
keys: { type: memory }
svids: { agent_ttl: 4s }
attestors: [{ type: x509pop, ca_bundle: ${directory}/makers.pem }]
`);
  const stop = new AbortController();
  const listening = Promise.withResolvers<number>();
  const parts = {
    // Any port that is free, which an operator could not have asked for.
    config: { ...config, listen: { ...config.listen, port: 0 } },
    version: 'test',
    clock: systemClock,
    log: silentLogger,
    metrics: createMetrics(),
    health: createHealth(),
    live: createWatch(config),
    onListening: (address: { readonly port: number }) => listening.resolve(address.port),
  };
  const over = runServerParts(parts, stop.signal).catch((error: unknown) => listening.reject(error));
  cleanups.push(() => (stop.abort(new Error('the test stops the server')), over));
  port = await listening.promise;
  operators = createRpcClient({ clock: systemClock, address: `unix:${directory}/operators/api.sock` });
  cleanups.push(() => operators.close());
  const bundle = bundleFromMessage(await operators.unary(services['spire.api.server.bundle.v1.Bundle'].GetBundle, {}));
  await writeFile(`${directory}/bundle.pem`, formatPemCertificates(bundle.x509Authorities.map(({ certificate }) => certificate)));
});

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

describe.each([
  ['EC', ecPair()],
  ['RSA', rsaPair()],
] as const)('a node with a certificate for an %s key', (_kind, pair) => {
  it('joins, serves workloads, and attests anew instead of renewing', { timeout: 60_000 }, async () => {
    const node = await nodeFiles('node', pair);
    const agent = await startAgent(node);
    const list = services['spire.api.server.agent.v1.Agent'].ListAgents;
    const listed = async (): Promise<{ readonly serial: string; readonly reattests: boolean; readonly path: string } | undefined> => {
      const { agents } = await operators.unary(list, {});
      expect(agents.length).toBeLessThanOrEqual(1);
      const [only] = agents;
      return only === undefined ? undefined : { serial: only.x509svid_serial_number, reattests: only.can_reattest, path: only.id?.path ?? '' };
    };
    await expect.poll(listed, { timeout: 10_000 }).toBeDefined();
    await expect.poll(() => agent.health.state.value.unmet, { timeout: 10_000 }).toEqual([]);
    const joined = await listed();
    expect(joined).toMatchObject({ path: node.agentId.slice('spiffe://example.org'.length), reattests: true });

    const id = (idPath: string) => ({ trust_domain: 'example.org', path: idPath });
    const { results } = await operators.unary(services['spire.api.server.entry.v1.Entry'].BatchCreateEntry, {
      entries: [{ spiffe_id: id('/web'), parent_id: id(joined?.path ?? ''), selectors: [{ type: 'unix', value: `uid:${String(process.getuid?.())}` }] }],
    });
    expect(results[0]?.status?.code).toBe(0);
    const updates = agent.workload.serverStream(services.SpiffeWorkloadAPI.FetchX509SVID, {}, { headers: { 'workload.spiffe.io': 'true' } });
    const served = async (): Promise<readonly string[]> => {
      const update = await updates.next();
      return update.done === true ? [] : update.value.svids.map(({ spiffe_id }) => spiffe_id);
    };
    expect(await served()).toEqual(['spiffe://example.org/web']);

    // Past the end of the first SVID: without a newer one the agent would be nobody by then.
    await expect.poll(() => changes(agent.metrics)['attested'], { timeout: 15_000 }).toBeGreaterThanOrEqual(3);
    expect(changes(agent.metrics)['renewed'] ?? 0).toBe(0);
    expect((await listed())?.serial).not.toBe(joined?.serial);
    expect((await audited('agent.attested')).map(({ subject }) => subject)).toEqual(expect.arrayContaining([node.agentId, node.agentId]));
    expect(await audited('agent.renewed')).toEqual([]);

    // What it may do outlasts the SVID that it joined with.
    const { results: more } = await operators.unary(services['spire.api.server.entry.v1.Entry'].BatchCreateEntry, {
      entries: [{ spiffe_id: id('/db'), parent_id: id(joined?.path ?? ''), selectors: [{ type: 'unix', value: `uid:${String(process.getuid?.())}` }] }],
    });
    expect(more[0]?.status?.code).toBe(0);
    expect([...(await served())].toSorted()).toEqual(['spiffe://example.org/db', 'spiffe://example.org/web']);
    await updates.return?.();
  });

  it('is refused by the server when it signs with another key', async () => {
    const node = await nodeFiles('node', pair);
    const impostor = await nodeFiles('impostor', pair.privateKey.asymmetricKeyType === 'rsa' ? rsaPair() : ecPair());
    const [honest, own] = [x509PopEvidence(node), x509PopEvidence(impostor)];
    /** Shows the certificate of one and signs with the key of the other. */
    const source: EvidenceSource = {
      ...honest,
      produce: async () => ({ payload: (await honest.produce()).payload, answer: (await own.produce()).answer }),
    };
    const trust = await readTrustBundle(`${directory}/bundle.pem`, 'pem', trustDomain);
    const link = { clock: systemClock, host: '127.0.0.1', port, trustDomain, minVersion: 'TLSv1.3' as const };
    const attest = (shown: EvidenceSource): Promise<{ readonly svid: { readonly spiffeId: string } }> =>
      attestNode({ trustDomain, connect: (trusted) => connectAnonymously(link, trusted), source: shown, trust, generateKeys: generateNodeKeys }, AbortSignal.timeout(10_000));
    // The same, signed with its own key, is let in.
    expect((await attest(honest)).svid.spiffeId).toBe(node.agentId);
    await expect(attest(source)).rejects.toMatchObject({ kind: 'denied' });
    await expect.poll(async () => (await audited('agent.refused')).map(({ outcome }) => outcome)).toEqual(['refused']);
    expect((await audited('agent.attested')).length).toBe(1);
  });

  it('does not start with a key that is not of its certificate', async () => {
    const node = await nodeFiles('node', pair, pair.privateKey.asymmetricKeyType === 'rsa' ? rsaPair() : ecPair());
    const agent = await startAgent(node);
    expect(await agent.over).toMatchObject({ kind: 'invalid', reason: 'evidence.x509pop.mismatch' });
    expect(await audited('agent.refused')).toEqual([]);
  });
});

it('a certificate of another maker is refused, and the agent ends for good', async () => {
  const stranger = ecPair();
  const node = await nodeFiles('node', stranger);
  const der = forgeCertificate({ signer: stranger.privateKey, spki: stranger.spki, issuer: makerName, subject: nameOf('node'), extensions: [extension.usage(keyUsage.digitalSignature)] });
  expect(new X509Certificate(der).verify(new X509Certificate(makerCertificate).publicKey)).toBe(false);
  await writeFile(node.certificate, formatPemCertificates([der]));
  const agent = await startAgent(node);
  expect(await agent.over).toMatchObject({ kind: 'denied', reason: 'identity.must-rejoin' });
  expect(await audited('agent.attested')).toEqual([]);
});
