import { describe, expect, it } from 'vitest';
import { ConfigError } from '../../runtime/config.ts';
import { formatServerConfig, parseServerConfig, restartKeys } from '../../server/config.ts';

const least = 'trust_domain: example.org\n';

function problemsOf(text: string): readonly (readonly [string, string])[] {
  try {
    parseServerConfig(text);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems.map(({ path, message }) => [path, message]);
    throw error;
  }
  return [];
}

const everyAttestor = `
attestors:
  - type: join_token
  - { type: x509pop, ca_bundle: /ca.pem }
  - type: k8s_psat
    clusters:
      - name: prod
        api_server: { url: https://10.0.0.1:6443, ca: /ca.pem, token_file: /token }
        service_account_allow_list: [ 'steeple:agent' ]
  - { type: tpm_devid, devid_ca_path: /devid.pem, endorsement_ca_path: /ek.pem }
  - type: oidc_ci
    trusts: [{ name: main, issuer: https://ci.example, audience: steeple, subject: repo, max_token_age: 5m }]
  - { type: aws_iid, account_allow_list: ['123456789012'], certificates: [{ path: /aws.pem, regions: [eu-west-1] }], max_age: 1h }
  - { type: gcp_iit, project_allow_list: [steeple], jwks_file: /google.json }
  - { type: azure_imds, tenants: [{ tenant_id: t, subscriptions: [s] }], root_ca_path: /root.pem, intermediate_ca_path: /between.pem }
`;

const federated = "federation: { fetch: { shortest: 5s, allow_addresses: ['127.0.0.1', 'fd00::/8'] } }\n";

describe('defaults', () => {
  it('are those of the documentation, with a trust domain alone', () => {
    const config = parseServerConfig(least);
    expect(config).toMatchObject({
      trust_domain: 'example.org',
      data_dir: '/var/lib/steeple/server',
      socket_path: '/run/steeple/server/api.sock',
      listen: { address: '0.0.0.0', port: 8081, min_tls_version: '1.3' },
      svids: { x509_ttl: 3_600_000, agent_ttl: 3_600_000, jwt_ttl: 300_000 },
      attestors: [{ type: 'join_token' }],
    });
  });

  it('are printed in a form that can be read back as the same', () => {
    const config = parseServerConfig(`${least}svids: { x509_ttl: 90s, jwt_ttl: 1500ms }\nauthorities: { absence: 0s }\n${everyAttestor}${federated}`);
    expect(config.federation.fetch).toMatchObject({ shortest: 5_000, longest: 86_400_000, private_addresses: true, allow_addresses: ['127.0.0.1', 'fd00::/8'] });
    expect(parseServerConfig(formatServerConfig(config))).toEqual(config);
  });
});

describe('T-K04 what is wrong is said all at once, with its path', () => {
  it('unknown keys, wrong types, wrong values, rules across keys', () => {
    const problems = problemsOf(`
trust_domain: EXAMPLE
data_dir: relative
socket_path: /${'x'.repeat(120)}
listen: { port: 70000, portt: 1 }
svids: { x509_ttl: 1 }
log: { level: loud }
colour: blue
`);
    const paths = problems.map(([path]) => path);
    for (const path of ['trust_domain', 'data_dir', 'socket_path', 'listen.port', 'listen.portt', 'svids.x509_ttl', 'log.level', 'colour']) {
      expect(paths).toContain(path);
    }
  });

  it.each([
    ['an SVID that outlives its authority', 'svids: { x509_ttl: 48h }', 'svids.x509_ttl'],
    ['a token that outlives its authority', 'svids: { jwt_ttl: 48h }', 'svids.jwt_ttl'],
    ['a WIT-SVID that outlives its authority', 'authorities: { wit: { ttl: 30m } }', 'svids.wit_ttl'],
    ['two secrets for one seal', 'keys: { type: disk, key_file: /k, passphrase_file: /p }', 'keys.passphrase_file'],
    ['an attestor twice', 'attestors: [{ type: join_token }, { type: join_token }]', 'attestors[1]'],
    ['an attestor of no known type', 'attestors: [{ type: tea }]', 'attestors[0].type'],
    ['a cluster without credentials', 'attestors: [{ type: k8s_psat, clusters: [{ name: a, api_server: { url: https://a }, service_account_allow_list: [a:b] }] }]', 'attestors[0].clusters[0].api_server.token_file'],
    ['a certificate without its key', 'attestors: [{ type: k8s_psat, clusters: [{ name: a, api_server: { url: https://a, certificate: /c }, service_account_allow_list: [a:b] }] }]', 'attestors[0].clusters[0].api_server.key'],
    ['a cluster that anybody may join', 'attestors: [{ type: k8s_psat, clusters: [{ name: a, api_server: { url: https://a, token_file: /t }, service_account_allow_list: [] }] }]', 'attestors[0].clusters[0].service_account_allow_list'],
    ['a key set and where to ask for it', 'attestors: [{ type: oidc_ci, trusts: [{ name: a, issuer: https://a, audience: a, subject: s, jwks_file: /j, jwks_host: b }] }]', 'attestors[0].trusts[0].jwks_file'],
    ['a cloud account that nobody named', 'attestors: [{ type: aws_iid, account_allow_list: [], certificates: [{ path: /a, regions: [r] }] }]', 'attestors[0].account_allow_list'],
    ['x509pop without authorities', 'attestors: [{ type: x509pop }]', 'attestors[0].ca_bundle'],
    ['bundles fetched more often than seldom', 'federation: { fetch: { shortest: 2h, longest: 1h } }', 'federation.fetch.shortest'],
    ['bundles fetched without a pause', 'federation: { fetch: { shortest: 0s } }', 'federation.fetch.shortest'],
    ['an address that is none', 'federation: { fetch: { allow_addresses: [localhost] } }', 'federation.fetch.allow_addresses[0]'],
    ['keys of another type', 'keys: { type: memory, directory: /k }', 'keys.directory'],
    ['an authority too short to rotate', 'authorities: { x509: { ttl: 1s } }', 'authorities.x509.ttl'],
  ])('%s', (_, text, path) => {
    const paths = problemsOf(`${least}${text}\n`).map(([at]) => at);
    // A list index in a rule across keys may be written either way.
    expect(paths.map((at) => at.replace(/\.(\d+)$/, '[$1]'))).toContain(path);
  });
});

describe('reload', () => {
  it('names what only a restart applies, and nothing else', () => {
    const before = parseServerConfig(least);
    const applied = parseServerConfig(`${least}log: { level: debug }\nsvids: { x509_ttl: 2h, wit_ttl: 2h }\nlimits: { signing: 5 }\n`);
    expect(restartKeys(before, applied)).toEqual([]);
    expect(restartKeys(before, parseServerConfig(`${least}authorities: { wit: {} }\n`))).toEqual(['authorities']);
    const restart = parseServerConfig(`${least}listen: { port: 9 }\nsvids: { jwt_issuer: x }\nlimits: { entries: 5 }\nhealth: { port: 1 }\n`);
    expect(restartKeys(before, restart).toSorted()).toEqual(['health', 'limits', 'listen', 'svids']);
  });
});
