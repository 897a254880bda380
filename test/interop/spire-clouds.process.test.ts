/**
 * SPIRE's agent, unmodified, joins our server as an instance of a cloud: it asks a stand-in for the metadata service, whose
 * documents are signed by keys the server knows. `STEEPLE_SPIRE_AGENT` names the executable; without it all is skipped.
 */
import { createPublicKey, sign } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { encodeSmallInteger } from '../../spiffe/x509/der-writer.ts';
import { keyUsage, oid } from '../../spiffe/x509/names.ts';
import { authorityExtensions, ecPair, extension, forgeCertificate, nameOf, rsaPair } from '../help/forge.ts';
import { startMetadataService, type InstanceDocuments, type MetadataService } from '../help/metadata-service.ts';
import { runToEnd, startRunning, type Running } from '../help/running.ts';
import { createSite, trustDomain, type Site } from '../help/site.ts';
import { attributesOf, base64, messageOf, oids, signerInfo, streamOf, withNull } from '../vectors/documents.ts';

const spireAgent = process.env['STEEPLE_SPIRE_AGENT'];
const withoutAgent = spireAgent === undefined ? 'skipped: STEEPLE_SPIRE_AGENT names no spire-agent' : undefined;

const amazon = rsaPair();
const google = rsaPair();
const serial = encodeSmallInteger(7);

/** What Amazon's metadata service has of an instance, lines broken as it breaks them. */
function documentsOf(instanceId: string): InstanceDocuments {
  const document = JSON.stringify(
    {
      accountId: '123456789012',
      architecture: 'x86_64',
      availabilityZone: 'eu-central-1b',
      imageId: 'ami-0cbde744623b7506b',
      instanceId,
      instanceType: 't3.small',
      pendingTime: new Date(Date.now() - 60_000).toISOString().replace(/\.\d+Z$/, 'Z'),
      privateIp: '10.0.1.242',
      region: 'eu-central-1',
      version: '2017-09-30',
    },
    undefined,
    2,
  );
  const content = Buffer.from(document);
  const signer = signerInfo(content, { key: amazon.privateKey, issuer: nameOf('Amazon'), serial, attributes: attributesOf(content) });
  const rsa2048 = base64(streamOf({ content, signers: [signer] })).replace(/.{76}(?=.)/g, '$&\n');
  return { document, signature: base64(Buffer.alloc(128, 1)), rsa2048 };
}

/** What Google's metadata service gives an instance for an audience. */
function tokenOf(audience: string, instanceId: string): string {
  const second = Math.floor(Date.now() / 1000);
  const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'RS256', kid: 'current', typ: 'JWT' })}.${part({
    aud: audience,
    azp: '102176384125136243527',
    email: 'default@developer.gserviceaccount.com',
    email_verified: true,
    exp: second + 3600,
    google: {
      compute_engine: {
        instance_creation_timestamp: second - 60,
        instance_id: instanceId,
        instance_name: 'blog-server',
        project_id: 'big-kahuna-123456',
        project_number: 739_419_398_126,
        zone: 'us-west1-b',
      },
    },
    iat: second,
    iss: 'https://accounts.google.com',
    sub: '102176384125136243527',
  })}`;
  return `${signed}.${sign('sha256', Buffer.from(signed), google.privateKey).toString('base64url')}`;
}

const azure = rsaPair();
const root = ecPair();
const rootCertificate = forgeCertificate({ signer: root.privateKey, spki: root.spki, subject: nameOf('root'), issuer: nameOf('root'), extensions: authorityExtensions() });
const subscription = '5f130ffc-0a3e-4795-b691-4f56a12a5547';
const tenant = '72f988bf-86f1-41af-91ab-2d7cd011db47';

/** What Azure's metadata service gives a machine for a nonce. */
function messageFor(nonce: string, vmId: string): string {
  const content = Buffer.from(JSON.stringify({ licenseType: '', nonce, sku: '22_04-lts-gen2', subscriptionId: subscription, vmId }));
  const names = { digestName: withNull(oids.rsaSha256), algorithm: withNull(oids.rsa) };
  const signer = signerInfo(content, { key: azure.privateKey, issuer: nameOf('root'), serial, ...names });
  const certificate = forgeCertificate({
    signer: root.privateKey,
    spki: azure.spki,
    subject: nameOf('metadata.azure.com'),
    issuer: nameOf('root'),
    serial,
    extensions: [
      extension.usage(keyUsage.digitalSignature | keyUsage.keyEncipherment),
      extension.purposes(oid.serverAuth, oid.clientAuth),
      extension.names(['metadata.azure.com', 'westeurope.metadata.azure.com'], []),
      extension.basic(false),
    ],
  });
  return base64(messageOf({ content, signers: [signer], digestNames: [names.digestName], certificates: [certificate] }));
}

describe.skipIf(withoutAgent !== undefined)(`spire-agent of a cloud, at our server ${withoutAgent ?? ''}`, () => {
  let site: Site;
  let metadata: MetadataService;

  beforeAll(async () => {
    site = await createSite();
    metadata = await startMetadataService();
    const [certificates, keys] = [path.join(site.directory, 'amazon.pem'), path.join(site.directory, 'google.json')];
    const form = { signer: amazon.privateKey, spki: amazon.spki, subject: nameOf('Amazon'), issuer: nameOf('Amazon'), serial, extensions: null };
    await writeFile(certificates, formatPemCertificates([forgeCertificate(form)]));
    const jwk = { ...createPublicKey(google.privateKey).export({ format: 'jwk' }), kid: 'current', use: 'sig', alg: 'RS256' };
    await writeFile(keys, JSON.stringify({ keys: [jwk] }));
    const authorities = path.join(site.directory, 'azure.pem');
    await writeFile(authorities, formatPemCertificates([rootCertificate]));
    await site.configureServer(`attestors:
  - type: aws_iid
    account_allow_list: ['123456789012']
    certificates: [{ path: ${certificates}, regions: [eu-central-1] }]
    max_age: 1h
  - { type: gcp_iit, project_allow_list: [big-kahuna-123456], jwks_file: ${keys} }
  - type: azure_imds
    tenants: [{ tenant_id: ${tenant}, subscriptions: [${subscription}] }]
    root_ca_path: ${authorities}
    intermediate_ca_path: ${authorities}
`);
    await site.startServer();
    await site.writeBundle();
  });
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    await metadata?.[Symbol.asyncDispose]();
  });

  const startAgent = async (name: string, attestor: string): Promise<Running & { readonly isHealthy: () => Promise<boolean> }> => {
    const base = path.join(site.directory, name);
    const socket = path.join(base, 'api.sock');
    await mkdir(path.join(base, 'data'), { recursive: true });
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
  ${attestor}
  WorkloadAttestor "unix" { plugin_data {} }
}
`,
    );
    const running = site.own(startRunning([spireAgent ?? '', 'run', '-config', path.join(base, 'agent.conf')], { env: { HTTP_PROXY: `http://${metadata.address}`, AWS_REGION: 'eu-central-1' } }));
    const isHealthy = async (): Promise<boolean> => (await runToEnd([spireAgent ?? '', 'healthcheck', '-socketPath', socket])).code === 0;
    return { ...running, isHealthy };
  };
  const ofAmazon = (): string => `NodeAttestor "aws_iid" { plugin_data { ec2_metadata_endpoint = "http://${metadata.address}/latest" } }`;
  const ofAzure = (): string => 'NodeAttestor "azure_imds" { plugin_data { tenant_domain = "example.onmicrosoft.com" } }';
  const ofGoogle = (): string => `NodeAttestor "gcp_iit" { plugin_data { identity_token_host = "${metadata.address}" } }`;

  const until = async (agent: Running, check: () => Promise<boolean> | boolean): Promise<void> => {
    const end = Date.now() + 60_000;
    while (!(await check())) {
      if (Date.now() > end) throw new Error(`it did not come about: ${agent.text()}`);
      await sleep(250);
    }
  };
  const joins = async (name: string, attestor: string): Promise<void> => {
    const agent = await startAgent(name, attestor);
    await until(agent, agent.isHealthy);
  };
  const isRefused = async (name: string, attestor: string, text: string): Promise<void> => {
    const agent = await startAgent(name, attestor);
    await until(agent, () => agent.text().includes(text));
    expect(await agent.isHealthy()).toBe(false);
    await agent.end();
  };
  const agents = (): Promise<readonly unknown[]> => site.ask<readonly unknown[]>('agent', 'list');

  it('joins as an instance of Amazon’s, once', async () => {
    metadata.amazon = documentsOf('i-0c5541936caf78c12');
    await joins('amazon', ofAmazon());
    expect(await agents()).toMatchObject([
      { id: `spiffe://${trustDomain}/spire/agent/aws_iid/123456789012/eu-central-1/i-0c5541936caf78c12`, attestationType: 'aws_iid', canReattest: false },
    ]);
    await isRefused('amazon-again', ofAmazon(), 'already used');
  });

  it('is no other instance of Amazon’s than its own', async () => {
    metadata.amazon = { ...documentsOf('i-0aaaaaaaaaaaaaaaa'), document: documentsOf('i-0bbbbbbbbbbbbbbbb').document };
    await isRefused('amazon-forged', ofAmazon(), 'not the one that was signed');
  });

  it('joins as an instance of Google’s, once', async () => {
    metadata.google = (audience) => tokenOf(audience, '152986662232938449');
    await joins('google', ofGoogle());
    expect(await agents()).toContainEqual(
      expect.objectContaining({ id: `spiffe://${trustDomain}/spire/agent/gcp_iit/big-kahuna-123456/152986662232938449`, attestationType: 'gcp_iit' }),
    );
    await isRefused('google-again', ofGoogle(), 'already used');
  });

  it('is no instance of Google’s by a token for somebody else', async () => {
    metadata.google = () => tokenOf('https://vault.example.org', '1');
    await isRefused('google-elsewhere', ofGoogle(), 'not meant for this server alone');
  });

  it('joins as a machine of Azure’s, once', async () => {
    metadata.azure = (nonce) => messageFor(nonce, 'bd8e7443-24a0-41f3-b949-8baf4fd1c573');
    await joins('azure', ofAzure());
    expect(await agents()).toContainEqual(
      expect.objectContaining({
        id: `spiffe://${trustDomain}/spire/agent/azure_imds/${tenant}/${subscription}/bd8e7443-24a0-41f3-b949-8baf4fd1c573`,
        attestationType: 'azure_imds',
      }),
    );
    await isRefused('azure-again', ofAzure(), 'already used');
  });

  it('is no machine of Azure’s by a document that was read before', async () => {
    metadata.azure = () => messageFor('0123456789abcdef0123456789abcdef', '11111111-1111-1111-1111-111111111111');
    await isRefused('azure-replayed', ofAzure(), 'not an answer to the challenge');
  });
});
