/**
 * What `npm pack` ships, installed elsewhere: the program with its programs behind it. The library is a package of its own, which
 * `package-client.process.test.ts` looks at.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { realpathSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const exec = promisify(execFile);
const root = dirname(dirname(fileURLToPath(import.meta.url)));
/** As a user's shell has it, without what npm adds for the checkout's own scripts. */
const path = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => !folder.includes('node_modules')).join(delimiter);

let place: string;
let app: string;
const running: ChildProcess[] = [];

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), 'steeple-package-'));
  app = join(place, 'app');
  await mkdir(app);
  await writeFile(join(app, 'package.json'), '{"name":"app","private":true,"type":"module"}\n');
  await npm(root, 'pack', '--ignore-scripts=false', '--pack-destination', place);
  const [tarball = ''] = (await readdir(place)).filter((name) => name.endsWith('.tgz'));
  await npm(app, 'install', '--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts', join(place, tarball));
}, 400_000);

afterAll(async () => {
  for (const child of running.toReversed()) {
    child.kill('SIGTERM');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }
  await rm(place, { recursive: true, force: true });
});

describe('the package', () => {
  it('holds what runs and nothing else', async () => {
    const names = await readdir(join(app, 'node_modules', 'steeple'), { recursive: true });
    expect(names.filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))).toEqual([]);
    expect(names.filter((name) => /(^|\/)(test|docs|\.ci|\.steeple)(\/|$)/.test(name))).toEqual([]);
    expect(names).toEqual(expect.arrayContaining(['dist/proto/workload.proto', 'dist/cli/main.js', 'bin/steeple.cjs', 'LICENSE', 'README.md']));
  });

  it('tells its version', async () => {
    expect(await steeple('--version')).toBe('steeple 0.1.0\n');
  });

  it('validates configurations, and names what is wrong', async () => {
    const file = join(place, 'server.yaml');
    await writeFile(file, 'trust_domain: Not Valid\nlisten: {port: 0}\nextra: 1\n');
    const refused = await steepleFails('server', 'validate', '--config', file);
    expect(refused.code).toBe(78);
    expect(refused.stderr).toMatch(/^trust_domain: .+$/m);
    expect(refused.stderr).toMatch(/^listen\.port: .+$/m);
    expect(refused.stderr).toMatch(/^extra: unknown key$/m);
    expect(await steeple('server', 'validate', '--trust-domain', 'example.org')).toContain('trust_domain: example.org');
    expect(await steeple('agent', 'validate', '--trust-domain', 'example.org', '--join-token', 'secret-token-value')).not.toContain('secret-token-value');
  });
});

describe('a trust domain run from the package', () => {
  const socket = (): string => join(place, 'server', 'api.sock');
  const publicSocket = (): string => join(place, 'agent', 'public', 'api.sock');

  it('joins a node and gives its workloads their identities', { timeout: 180_000 }, async () => {
    const port = String(await freePort());
    daemon('server', 'run', '--trust-domain', 'example.org', '--data-dir', join(place, 'server'), '--socket', socket(), '--address', '127.0.0.1', '--port', port);
    await healthy('server', 'healthcheck', '--socket', socket());
    const token = /^Token: (\S+)\n$/.exec(await steeple('token', 'generate', '--socket', socket(), '--spiffe-id', 'spiffe://example.org/node/one'))?.[1];
    const bundle = join(place, 'bundle.pem');
    await writeFile(bundle, await steeple('bundle', 'show', '--socket', socket()), { mode: 0o600 });
    const places = ['--data-dir', join(place, 'agent', 'data'), '--socket', publicSocket(), '--admin-socket', join(place, 'agent', 'private', 'admin.sock')];
    const trust = ['--trust-domain', 'example.org', '--trust-bundle', bundle, '--join-token', token ?? ''];
    daemon('agent', 'run', ...places, ...trust, '--server-address', '127.0.0.1', '--server-port', port);
    await healthy('agent', 'healthcheck', '--socket', publicSocket());
    const node = realpathSync(join(app, 'node_modules', `node-linux-${process.arch}`, 'bin', 'node'));
    const facts = ['--selector', `unix:path:${node}`, '--selector', `unix:uid:${userInfo().uid}`];
    await steeple('entry', 'create', '--socket', socket(), '--parent-id', 'spiffe://example.org/node/one', '--spiffe-id', 'spiffe://example.org/0', ...facts);
    const fetched = JSON.parse(await steeple('svid', 'fetch', '--socket', publicSocket(), '--output', 'json')) as { svids: { spiffeId: string }[] };
    expect(fetched.svids.map(({ spiffeId }) => spiffeId)).toEqual(['spiffe://example.org/0']);
  });
});

function npm(cwd: string, ...args: string[]): Promise<unknown> {
  return exec('npm', args, { cwd, env: { ...process.env, PATH: path }, maxBuffer: 64 * 1024 * 1024 });
}

const bin = (): string => join(app, 'node_modules', '.bin', 'steeple');
const env = (): NodeJS.ProcessEnv => ({ PATH: path, HOME: place });

async function steeple(...args: string[]): Promise<string> {
  return (await exec(bin(), args, { cwd: app, env: env() })).stdout;
}

async function steepleFails(...args: string[]): Promise<{ readonly code: number; readonly stderr: string }> {
  try {
    await exec(bin(), args, { cwd: app, env: env() });
  } catch (error) {
    return error as { code: number; stderr: string };
  }
  throw new Error(`steeple ${args.join(' ')} succeeded`);
}

function daemon(...args: string[]): void {
  running.push(spawn(bin(), args, { cwd: app, env: env(), stdio: ['ignore', 'ignore', 'inherit'] }));
}

async function healthy(...args: string[]): Promise<void> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      await steeple(...args);
      return;
    } catch (error) {
      if (attempt >= 60) throw error;
      await sleep(250);
    }
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}
