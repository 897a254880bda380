import { describe, expect, it } from 'vitest';
import { formatAgentConfig, parseAgentConfig, restartKeys } from '../../agent/config.ts';
import { parseAgentArguments } from '../../agent/main.ts';
import { ConfigError } from '../../runtime/config.ts';

const least = 'trust_domain: example.org\n';

function problems(text: string): string[] {
  try {
    parseAgentConfig(text);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems.map(({ path }) => path).toSorted();
  }
}

describe('the configuration', () => {
  it('needs no more than a trust domain', () => {
    const config = parseAgentConfig(least);
    expect(config).toMatchObject({
      data_dir: '/var/lib/steeple/agent',
      socket_path: '/run/steeple/agent/public/api.sock',
      admin_socket_path: '/run/steeple/agent/private/admin.sock',
      server: { address: '127.0.0.1', port: 8081, min_tls_version: '1.3' },
      limits: { prefetched_svids: 1000 },
      cache: { mode: 'sealed' },
      events: { spool_size: 64 * 1024 * 1024 },
      sync: { poll_interval: 5000 },
    });
    expect(config.trust_bundle).toBeUndefined();
  });

  it('prints what is in force so that it can be read again, and no token', () => {
    const config = parseAgentConfig(`${least}attestor: { type: join_token, token: very-secret-token }`);
    const text = formatAgentConfig(config);
    expect(text).not.toContain('very-secret-token');
    expect(formatAgentConfig(parseAgentConfig(text))).toBe(text);
  });

  it.each([
    'attestor: { type: k8s_psat, cluster: prod }',
    'attestor: { type: oidc_ci, request: { url: https://runner.example/token, audience: steeple, token_file: /token } }',
    'attestor: { type: tpm_devid, devid_cert_path: /c, devid_priv_path: /r, devid_pub_path: /u }',
    'workload: { docker: {}, cri: {}, systemd: {}, kubernetes: { source: kubelet, relist_interval: 10s } }',
    'workload: { docker: { engines: [{ socket_path: /run/user/1000/docker.sock, owner_uid: 1000 }] }, kubernetes: { source: api_server, node_name: a } }',
  ])('reads again what it prints of %s', (more) => {
    const config = parseAgentConfig(`${least}${more}`);
    expect(parseAgentConfig(formatAgentConfig(config))).toEqual(config);
  });

  it.each([
    ['a token twice', 'attestor: { type: oidc_ci, token_file: /t, request: { url: https://a, audience: a, token_file: /t } }', 'attestor.token_file'],
    ['no token', 'attestor: { type: oidc_ci }', 'attestor.token_file'],
    ['nothing to ask with', 'attestor: { type: oidc_ci, request: { url: https://a, audience: a } }', 'attestor.request.token_file'],
    ['a watch of no node', 'workload: { kubernetes: { source: api_server } }', 'workload.kubernetes.node_name'],
    ['root as the owner of a rootless engine', 'workload: { docker: { engines: [{ owner_uid: 0 }] } }', 'workload.docker.engines[0].owner_uid'],
  ])('refuses %s', (_what, more, where) => {
    expect(problems(`${least}${more}`).join()).toContain(where);
  });

  it('tells all problems at once, with their paths', () => {
    expect(
      problems(`
trust_domain: Example.org
server: { port: 0, host: x }
socket_path: relative
cache: { mode: maybe }
unknown: 1
limits: { connections: -1 }
events: { spool_size: 65MiB }
`),
    ).toEqual(['cache.mode', 'events.spool_size', 'limits.connections', 'server.host', 'server.port', 'socket_path', 'trust_domain', 'unknown']);
  });

  it.each([
    ['an admin socket beside the public one', 'socket_path: /run/x/api.sock\nadmin_socket_path: /run/x/admin.sock', 'admin_socket_path'],
    ['an admin socket below the public one', 'socket_path: /run/x/api.sock\nadmin_socket_path: /run/x/y/admin.sock', 'admin_socket_path'],
    ['two tokens', 'attestor: { type: join_token, token: a, token_file: /b }', 'attestor.token_file'],
    ['two keys', 'cache: { key_file: /a, key_credential: b }', 'cache.key_credential'],
    ['a key for nothing', 'cache: { mode: off, key_file: /a }', 'cache.mode'],
    ['a path the kernel has no room for', `socket_path: /${'x'.repeat(107)}`, 'socket_path'],
    ['a bundle and a pin', `trust_bundle: { path: /a, pin: ${'0'.repeat(64)} }`, 'trust_bundle.pin'],
    ['a pin that is none', 'trust_bundle: { pin: abc }', 'trust_bundle.pin'],
  ])('refuses %s', (_what, text, path) => {
    expect(problems(`${least}${text}\n`)).toContain(path);
  });

  it('names what only a restart applies', () => {
    const before = parseAgentConfig(`${least}attestor: { type: join_token, token: a }`);
    const after = parseAgentConfig(`${least}attestor: { type: join_token, token: b }\nserver: { port: 9 }\nlog: { level: debug }`);
    expect([...restartKeys(before, after)].toSorted()).toEqual(['attestor', 'server']);
    expect(restartKeys(before, parseAgentConfig(`${least}attestor: { type: join_token, token: a }\nlog: { level: debug }`))).toEqual([]);
  });
});

describe('the arguments', () => {
  it('go over the file', () => {
    const given = parseAgentArguments(['--config', '/x.yaml', '--server-port', '9', '--join-token', 't', '--trust-bundle', '/b.pem']);
    expect(given).toMatchObject({ file: '/x.yaml', named: true });
    const config = parseAgentConfig(`${least}attestor: { type: join_token }`, given.overlays);
    expect([config.server.port, config.trust_bundle]).toEqual([9, { path: '/b.pem', format: 'pem' }]);
    expect(config.attestor.type === 'join_token' && config.attestor.token?.reveal()).toBe('t');
  });

  it.each([[['--nonsense']], [['--server-port']], [['stray']]])('refuse %j', (argv) => {
    expect(() => parseAgentArguments(argv)).toThrow(expect.objectContaining({ reason: 'agent.usage' }));
  });
});
