import { expect, it } from 'vitest';
import { formatAgentConfig, parseAgentConfig } from '../../../agent/config.ts';
import { ConfigError } from '../../../runtime/config.ts';

const mesh = 'spiffe://example.org/mesh';
const least = `trust_domain: example.org\nbroker: { socket_path: /run/x/broker.sock, callers: [{ spiffe_id: '${mesh}' }] }\n`;

function problems(text: string): string[] {
  try {
    parseAgentConfig(text);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems.map(({ path }) => path).toSorted();
  }
}

it('STAB-03, BRK-15: is off, and nobody is a broker or a delegate, unless that is said', () => {
  expect(parseAgentConfig('trust_domain: example.org')).toMatchObject({ authorized_delegates: [] });
  expect(parseAgentConfig('trust_domain: example.org').broker).toBeUndefined();
});

it('takes a socket and one broker, and prints what follows', () => {
  const { broker } = parseAgentConfig(least);
  expect(broker).toMatchObject({
    min_tls_version: '1.3',
    profiles: ['x509', 'jwt'],
    pid_namespace: 'same',
    callers: [{ spiffe_id: mesh, references: ['pid', 'kubernetes'] }],
    limits: { connections: 256, calls_per_caller: 2_000, calls_per_second_per_caller: 200, processes: 4_000 },
  });
  const text = formatAgentConfig(parseAgentConfig(least));
  expect(formatAgentConfig(parseAgentConfig(text))).toBe(text);
});

it.each([
  ['neither a socket nor an address', `broker: { callers: [{ spiffe_id: '${mesh}' }] }`, ['broker']],
  ['nobody to serve', 'broker: { socket_path: /run/x/b.sock, callers: [] }', ['broker.callers']],
  ['no list at all', 'broker: { socket_path: /run/x/b.sock }', ['broker.callers']],
  ['a broker twice', `broker: { socket_path: /run/x/b.sock, callers: [{ spiffe_id: '${mesh}' }, { spiffe_id: '${mesh}' }] }`, ['broker.callers[1].spiffe_id']],
  ['a broker of another trust domain', "broker: { socket_path: /run/x/b.sock, callers: [{ spiffe_id: 'spiffe://other.test/mesh' }] }", ['broker.callers[0].spiffe_id']],
  ['an agent as a broker', "broker: { socket_path: /run/x/b.sock, callers: [{ spiffe_id: 'spiffe://example.org/spire/agent/a' }] }", ['broker.callers[0].spiffe_id']],
  ['the whole trust domain as a broker', "broker: { socket_path: /run/x/b.sock, callers: [{ spiffe_id: 'spiffe://example.org' }] }", ['broker.callers[0].spiffe_id']],
  ['a broker that may refer to nothing', `broker: { socket_path: /run/x/b.sock, callers: [{ spiffe_id: '${mesh}', references: [] }] }`, ['broker.callers[0].references']],
  ['a kind of reference that there is not', `broker: { socket_path: /run/x/b.sock, callers: [{ spiffe_id: '${mesh}', references: [deployment] }] }`, ['broker.callers[0].references[0]']],
  ['a pattern for an ID', `broker: { socket_path: /run/x/b.sock, callers: [{ spiffe_id: '${mesh}', spiffe_ids: ['spiffe://example.org/*'] }] }`, ['broker.callers[0].spiffe_ids[0]']],
  ['BRKEP-01: a socket where everybody may go', `broker: { socket_path: /run/steeple/agent/public/b.sock, callers: [{ spiffe_id: '${mesh}' }] }`, ['broker.socket_path']],
  ['the socket of the operators', `broker: { socket_path: /run/steeple/agent/private/admin.sock, callers: [{ spiffe_id: '${mesh}' }] }`, ['broker.socket_path']],
  ['a delegate that is no ID', 'authorized_delegates: [mesh]', ['authorized_delegates[0]']],
])('refuses %s', (_what, text, paths) => {
  expect(problems(`trust_domain: example.org\n${text}\n`)).toEqual(paths);
});
