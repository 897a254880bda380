import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { parseServerConfig } from '../../server/config.ts';
import { openVerifiers } from '../../server/verifiers.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { testAuthority } from '../help/agent-server.ts';
import { createTestClock } from '../help/clock.ts';

async function directory(): Promise<string> {
  const made = await mkdtemp(path.join(tmpdir(), 'steeple-verifiers-'));
  onTestFinished(() => rm(made, { recursive: true }));
  return made;
}

function configured(attestors: string) {
  return parseServerConfig(`trust_domain: example.org\nattestors:\n${attestors}`).attestors;
}

it('makes a verifier of every type from the files that its section names', async () => {
  const here = await directory();
  const ca = path.join(here, 'ca.pem');
  const keys = path.join(here, 'keys.json');
  await writeFile(ca, formatPemCertificates([testAuthority().certificate]));
  await writeFile(keys, '{"keys":[]}');
  const verifiers = await openVerifiers(
    configured(`
  - type: join_token
  - { type: x509pop, ca_bundle: ${ca} }
  - type: k8s_psat
    clusters: [{ name: prod, api_server: { url: 'https://10.0.0.1:6443', ca: ${ca}, token_file: /token }, service_account_allow_list: ['steeple:agent'] }]
  - { type: tpm_devid, devid_ca_path: ${ca}, endorsement_ca_path: ${ca} }
  - type: oidc_ci
    trusts:
      - { name: one, issuer: 'https://ci.example', audience: steeple, subject: one, jwks_file: ${keys} }
      - { name: two, issuer: 'https://other.example', audience: steeple, subject: two, ca: ${ca}, jwks_host: keys.example }
  - { type: aws_iid, account_allow_list: ['123456789012'], certificates: [{ path: ${ca}, regions: [eu-west-1] }], max_age: 1h }
  - { type: gcp_iit, project_allow_list: [steeple-test], jwks_file: ${keys} }
  - type: azure_imds
    tenants: [{ tenant_id: 4f6c1a58-1d0a-4b39-9d5a-3c1f6a1f0e11, subscriptions: [0b1f6470-1bad-4e2a-8b1c-5d1c2a8d9c10] }]
    root_ca_path: ${ca}
    intermediate_ca_path: ${ca}`),
    createTestClock(),
  );
  expect(verifiers.all.map(({ type }) => type)).toEqual(['join_token', 'x509pop', 'k8s_psat', 'tpm_devid', 'oidc_ci', 'aws_iid', 'gcp_iit', 'azure_imds']);
  verifiers.close();
});

it.each([
  ['a file that is not there', '  - { type: x509pop, ca_bundle: /nowhere/ca.pem }', /^files\.|^file\./],
  ['a trust whose subject looks like a pattern', "  - { type: oidc_ci, trusts: [{ name: a, issuer: 'https://ci.example', audience: b, subject: 'repo:*' }] }", /^oidc-ci\.config$/],
  ['an issuer without TLS', "  - { type: oidc_ci, trusts: [{ name: a, issuer: 'http://ci.example', audience: b, subject: c }] }", /^oidc-ci\.config$/],
])('does not start with %s', async (_what, section, reason) => {
  await expect(openVerifiers(configured(section), createTestClock())).rejects.toMatchObject({ reason: expect.stringMatching(reason) as unknown });
});
