import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { agentExitCodes, parseAgentArguments, runAgent, validateAgent } from '../../agent/main.ts';
import { loadServices } from '../../proto/load.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createRpcClient } from '../../runtime/rpc/call.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { startAgentServer, testAuthority, type AgentServer } from '../help/agent-server.ts';

const authority = testAuthority();

let directory: string;
let file: string;
let out: string[];
let err: string[];
let stop: AbortController;
const cleanups: (() => unknown)[] = [];

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'steeple-main-'));
  file = path.join(directory, 'agent.yaml');
  [out, err] = [[], []];
  stop = new AbortController();
  cleanups.push(() => rm(directory, { recursive: true, force: true }));
});

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

function io(env: Readonly<Record<string, string>> = {}) {
  return { out: (text: string) => void out.push(text), err: (text: string) => void err.push(text), env, signal: stop.signal };
}

interface LogLine {
  readonly event: string;
  readonly [field: string]: unknown;
}

const lines = (): LogLine[] => out.join('').split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as LogLine);
const named = (event: string): LogLine[] => lines().filter((line) => line.event === event);

async function configure(server: { port: number; bundle: Pick<AgentServer['bundle'], 'x509Authorities'> }, more = ''): Promise<void> {
  const bundleFile = path.join(directory, 'bundle.pem');
  await writeFile(bundleFile, formatPemCertificates(server.bundle.x509Authorities.map(({ certificate }) => certificate)), { mode: 0o600 });
  await writeFile(file, `
trust_domain: example.org
server: { address: 127.0.0.1, port: ${String(server.port)} }
data_dir: ${directory}/data
socket_path: ${directory}/public/api.sock
admin_socket_path: ${directory}/private/admin.sock
trust_bundle: { path: ${bundleFile} }
attestor: { type: join_token, token: a-token-for-tests }
${more}`);
}

async function startServer(options: Parameters<typeof startAgentServer>[0] = {}): Promise<AgentServer> {
  const server = await startAgentServer(options);
  cleanups.push(() => server[Symbol.asyncDispose]());
  return server;
}

function run(env: Readonly<Record<string, string>> = {}): Promise<number> {
  const over = runAgent(['--config', file], '0.0.0-test', io(env));
  cleanups.push(() => {
    stop.abort(new Error('the test is over'));
    return over;
  });
  return over;
}

describe('arguments', () => {
  it('put keys over those of the file', () => {
    const { file: named, overlays } = parseAgentArguments(['--config', '/x', '--server-port', '9', '--log-level', 'debug', '--insecure-bootstrap']);
    expect([named, overlays]).toEqual(['/x', [
      { path: ['server', 'port'], value: 9 },
      { path: ['log', 'level'], value: 'debug' },
      { path: ['trust_bundle', 'insecure'], value: true },
    ]]);
  });

  it('a token brings its attestor along', () => {
    expect(parseAgentArguments(['--join-token', 't']).overlays).toEqual([{ path: ['attestor', 'type'], value: 'join_token' }, { path: ['attestor', 'token'], value: 't' }]);
  });

  it.each([[['--nonsense']], [['positional']], [['--config']]])('%j is not understood', (argv) => {
    expect(() => parseAgentArguments(argv)).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'agent.usage' }) as Error);
  });
});

describe('exit codes', () => {
  it.each([
    ['usage', ['--nonsense'], undefined, agentExitCodes.usage],
    ['a file that is not there', ['--config', '/nowhere/agent.yaml'], undefined, agentExitCodes.config],
    ['a file with problems', undefined, 'trust_domain: Example.org\nnonsense: 1\n', agentExitCodes.config],
  ])('%s: nothing runs, what is wrong is said', async (_name, argv, text, code) => {
    if (text !== undefined) await writeFile(file, text);
    expect(await runAgent(argv ?? ['--config', file], 'x', io())).toBe(code);
    expect([out, err.length > 0]).toEqual([[], true]);
    expect(await validateAgent(argv ?? ['--config', file], io())).toBe(code);
  });

  it('every problem of a file is named with its path', async () => {
    await writeFile(file, 'trust_domain: Example.org\nnonsense: 1\nlog: { level: loud }\n');
    await runAgent(['--config', file], 'x', io());
    for (const where of ['trust_domain', 'nonsense', 'log.level']) expect(err.join('')).toContain(where);
  });

  it('0 when it was told to stop', async () => {
    await configure(await startServer());
    const over = run();
    await expect.poll(() => named('socket.listening').length, { timeout: 15_000 }).toBe(1);
    stop.abort(new Error('enough'));
    expect([await over, named('agent.stopped').length]).toEqual([agentExitCodes.stopped, 1]);
  });

  it('4 when it has to join anew', async () => {
    await configure(await startServer({ token: 'another-token' }));
    expect(await run()).toBe(agentExitCodes.mustRejoin);
    expect(named('agent.ended')).toMatchObject([{ code: 4 }]);
  });

  it('3 when it is banned', async () => {
    const server = await startServer();
    await configure(server);
    const over = run();
    await expect.poll(() => named('sync.connected').length, { timeout: 15_000 }).toBe(1);
    server.commitChange({ command: { action: 'ACTION_BANNED', reason: 'seen elsewhere' } });
    expect(await over).toBe(agentExitCodes.banned);
  });

  it('69 when another runs with its directory', async () => {
    await configure(await startServer());
    void run();
    await expect.poll(() => named('socket.listening').length, { timeout: 15_000 }).toBe(1);
    expect(await runAgent(['--config', file], 'x', io())).toBe(agentExitCodes.unavailable);
  });

  it('78 when a sealing key is to come from a service manager that passed none', async () => {
    await configure(await startServer(), 'cache: { key_credential: sealing }\n');
    expect(await run()).toBe(agentExitCodes.config);
  });
});

it('prints the configuration in force, and no secret', async () => {
  await configure({ port: 8081, bundle: (await startServer()).bundle });
  expect(await validateAgent(['--config', file], io())).toBe(agentExitCodes.stopped);
  expect(out.join('')).toContain('trust_domain: example.org');
  expect(out.join('')).not.toContain('a-token-for-tests');
});

it('SIGHUP: the log level of a valid file counts at once; of an invalid one nothing does', async () => {
  const server = await startServer();
  await configure(server);
  void run();
  await expect.poll(() => named('socket.listening').length, { timeout: 15_000 }).toBe(1);
  await configure(server, 'log: { level: debug }\nlimits: { connections: 5 }\n');
  process.emit('SIGHUP');
  await expect.poll(() => named('config.reloaded').length).toBe(1);
  expect(named('config.reloaded')).toMatchObject([{ restart: ['limits'] }]);
  const client = createRpcClient({ clock: systemClock, address: `unix:${directory}/public/api.sock` });
  cleanups.push(() => client.close());
  await client.unary(loadServices('grpc.health.v1.Health')['grpc.health.v1.Health'].Check, {});
  await expect.poll(() => named('call.ended').length).toBe(1);
  await configure(server, 'log: { level: error }\nnonsense: true\n');
  process.emit('SIGHUP');
  await expect.poll(() => named('config.refused').length).toBe(1);
  expect(JSON.stringify(named('config.refused'))).toContain('nonsense');
  await configure(server, 'log: { level: info }\n');
  process.emit('SIGHUP');
  // Had the refused level counted, this would not be told.
  await expect.poll(() => named('config.reloaded').length).toBe(2);
  stop.abort(new Error('enough'));
  await expect.poll(() => process.listenerCount('SIGHUP')).toBe(0);
});

it.skipIf(spawnSync('python3', ['--version']).status !== 0)('tells the service manager once it is ready, and not before (needs python3, Node has no datagram sockets here)', async () => {
  const manager = path.join(directory, 'notify');
  const told: string[] = [];
  const { port } = await reservedPort();
  await configure({ port, bundle: { x509Authorities: [{ certificate: authority.certificate, tainted: false }] } });
  const program = `import socket,sys
s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM);s.bind(sys.argv[1]);print('bound',flush=True)
print(s.recv(100).decode(),flush=True)`;
  const { startProgram } = await import('../help/processes.ts');
  const listener = startProgram(['python3', '-c', program, manager]);
  cleanups.push(() => listener.child.kill('SIGKILL'));
  expect(await listener.line()).toBe('bound');
  void listener.line().then((line) => told.push(line), () => undefined);
  void run({ NOTIFY_SOCKET: manager });
  await expect.poll(() => named('identity.failed').length, { timeout: 15_000 }).toBeGreaterThan(0);
  expect(told).toEqual([]);
  const server = await startServer({ port, authority });
  expect(server.port).toBe(port);
  await expect.poll(() => told, { timeout: 15_000 }).toEqual(['READY=1']);
});

async function reservedPort(): Promise<{ readonly port: number }> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return { port };
}
