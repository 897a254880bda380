/**
 * The library as its users get it: built, packed, installed into an app of its own and used there under every Node it promises
 * to run on, against a real agent and against its own fake; and compiled against under the strictest settings.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { delimiter, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createSite, type Site } from './help/site.ts';

const exec = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));
/** The bin of the repository's own Node would shadow npm's. */
const path = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => !folder.includes('node_modules')).join(delimiter);
const versions = [20, 22, 24, 26] as const;
const ownVersion = Number(process.versions.node.split('.')[0]);
const install = ['install', '--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts'];
const web = 'spiffe://example.org/web';

let place: string;
let app: string;
let site: Site;
let socket: string;

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), 'steeple-client-'));
  app = join(place, 'app');
  await Promise.all([installed(), provided(), joined()]);
}, 300_000);

afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await rm(place, { recursive: true, force: true });
});

async function installed(): Promise<void> {
  await mkdir(app);
  await writeFile(join(app, 'package.json'), '{"name":"app","private":true,"type":"module"}\n');
  await npm(root, 'run', 'build:client');
  await npm(root, 'pack', './dist/client-package', '--pack-destination', place);
  const [tarball = ''] = (await readdir(place)).filter((name) => name.endsWith('.tgz'));
  await npm(app, ...install, join(place, tarball), `@types/node@${await versionOf('@types/node')}`);
}

/** The Nodes, and the compiler, that the repository does not have. */
async function provided(): Promise<void> {
  await mkdir(join(place, 'nodes'));
  await writeFile(join(place, 'nodes', 'package.json'), '{"private":true}\n');
  const others = versions.filter((version) => version !== ownVersion);
  await npm(join(place, 'nodes'), ...install, ...others.map((version) => `node${version}@npm:node-linux-${process.arch}@^${version}`), 'typescript@~5.5.0');
}

/** A server, and an agent that gives whoever asks as this user one identity. */
async function joined(): Promise<void> {
  site = await createSite();
  await site.startServer();
  await site.writeBundle();
  const { token, agentId } = await site.token();
  const agent = await site.startAgent('agent', { token });
  await agent.until('sync.connected');
  await site.entry({ path: '/web', parent: agentId, selectors: [`unix:uid:${userInfo().uid}`] });
  socket = agent.endpoint;
}

describe('the package', () => {
  it('holds the library and nothing else, and says what it stands on', async () => {
    const folder = join(app, 'node_modules', '@steeple', 'client');
    const names = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile()).map(({ name }) => name);
    expect(names.filter((name) => !/\.(?:js|d\.ts)$/.test(name)).toSorted()).toEqual(['LICENSE', 'README.md', 'package.json']);
    const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as { name: string; dependencies: Record<string, string> };
    expect(manifest.name).toBe('@steeple/client');
    expect(Object.keys(manifest.dependencies)).toEqual(['@grpc/grpc-js', '@grpc/proto-loader']);
    const rooms = await readdir(folder);
    expect(rooms.filter((room) => ['agent', 'server', 'cli', 'test', 'docs'].includes(room))).toEqual([]);
    for (const name of ['pack.js', 'linux.js', 'log.js', 'load.js']) expect(names).not.toContain(name);
  });

  it('brings no native code and runs no script when it is installed', async () => {
    const lock = JSON.parse(await readFile(join(app, 'package-lock.json'), 'utf8')) as { packages: Record<string, { hasInstallScript?: boolean; optional?: boolean }> };
    const natives = Object.entries(lock.packages).filter(([, { hasInstallScript }]) => hasInstallScript === true);
    // Its script prints a warning, and is not needed.
    expect(natives.map(([name]) => name).filter((name) => name !== 'node_modules/protobufjs')).toEqual([]);
    expect(Object.keys(lock.packages).join('\n')).not.toMatch(/koffi|pino|zod|kysely|systeminformation/);
  });

  it.each(['newest', 'of 2024'])('compiles under the strictest settings, and says no to what is wrong: the compiler %s', { timeout: 120_000 }, async (age) => {
    const compiler = join(age === 'newest' ? root : join(place, 'nodes'), 'node_modules', '.bin', 'tsc');
    await writeFile(join(app, 'strict.ts'), strictProgram);
    await writeFile(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions: age === 'newest' ? { ...strictest, erasableSyntaxOnly: true } : strictest, files: ['strict.ts'] }));
    const { stdout } = await exec(compiler, ['-p', app], { cwd: app }).catch((error: unknown) => error as { stdout: string });
    expect(stdout).toBe('');
  });
});

describe('bundled into one file', () => {
  it('needs no other, on the oldest Node', { timeout: 60_000 }, async () => {
    await writeFile(join(app, 'whole.mjs'), fakeProgram);
    // What Vitest stands on; any other would do.
    const { rolldown } = await import('rolldown');
    const bundle = await rolldown({ input: join(app, 'whole.mjs'), platform: 'node', logLevel: 'silent' });
    const alone = join(place, 'alone', 'whole.mjs');
    await bundle.write({ file: alone, format: 'esm' });
    await bundle.close();
    const { stdout } = await exec(nodeOf(versions[0]), [alone], { cwd: join(place, 'alone'), env: {}, timeout: 60_000 });
    expect(JSON.parse(stdout)).toMatchObject({ rotated: true });
  });
});

const nodeOf = (version: number): string =>
  version === ownVersion ? process.execPath : join(place, 'nodes', 'node_modules', `node${version}`, 'bin', 'node');

describe.each(versions)('on Node %i', (version) => {
  const run = async (program: string, env: NodeJS.ProcessEnv = {}): Promise<unknown> => {
    const file = join(app, `${version}-${program.length}.mjs`);
    await writeFile(file, program);
    const { stdout, stderr } = await exec(nodeOf(version), ['--trace-uncaught', '--trace-warnings', file], { cwd: app, env, timeout: 60_000 });
    // Nothing is written by itself, warnings of Node included.
    expect(stderr).toBe('');
    return JSON.parse(stdout);
  };

  it('serves a program beside a real agent', { timeout: 90_000 }, async () => {
    expect(await run(agentProgram, { SPIFFE_ENDPOINT_SOCKET: socket })).toEqual({
      node: `v${version}`,
      ids: [web],
      bundles: ['example.org'],
      answer: `hello ${web}`,
      page: `200 page for ${web}`,
      refused: 'denied source.peer.refused',
      token: [web, ['db']],
      validated: [web, web],
      wrongAudience: 'unauthenticated jwt-svid.audience',
    });
  });

  it('serves a test with its fake Workload API', { timeout: 90_000 }, async () => {
    expect(await run(fakeProgram)).toEqual({ before: 'denied workload.no-identity', serials: 2, rotated: true, after: 'denied', federated: ['example.org', 'other.test'] });
  });
});

const strictest = {
  target: 'es2022',
  lib: ['es2022', 'esnext.disposable'],
  module: 'nodenext',
  moduleResolution: 'nodenext',
  types: ['node'],
  noEmit: true,
  strict: true,
  skipLibCheck: false,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  noPropertyAccessFromIndexSignature: true,
  noImplicitOverride: true,
  noImplicitReturns: true,
  noFallthroughCasesInSwitch: true,
  noUnusedLocals: true,
  noUnusedParameters: true,
  verbatimModuleSyntax: true,
  isolatedModules: true,
};

const strictProgram = `
import { authorizeId, connectTls, createTlsServer, type JwtSvid, JwtSource, parseSpiffeId, pickHint, type SpiffeId, WorkloadApi, X509Source } from '@steeple/client';
import { FakeWorkloadApi } from '@steeple/client/testing';

export async function main(): Promise<readonly SpiffeId[]> {
  await using fake = await FakeWorkloadApi.start({ transport: 'tcp' });
  using api = new WorkloadApi({ address: fake.address });
  await using source = await X509Source.open({ api, pick: pickHint('internal') });
  await using tokens = await JwtSource.open({ api, pick: pickHint('internal') });
  const peer = parseSpiffeId('spiffe://example.org/web');
  const server = createTlsServer(source, { authorize: authorizeId(peer) }, (socket, who) => socket.end(who?.spiffeId ?? 'nobody'));
  const socket = await connectTls(source, { host: 'localhost', port: 1, authorize: authorizeId(peer) });
  const token: JwtSvid = await tokens.fetchJwtSvid({ audience: 'db' });
  for await (const { svids } of api.watchX509Context(AbortSignal.timeout(1))) return svids.map(({ spiffeId }) => spiffeId);
  // @ts-expect-error A text is no SPIFFE ID before it was parsed.
  authorizeId('spiffe://example.org/web');
  // @ts-expect-error Who may be at the other end has to be said.
  await connectTls(source, { host: 'localhost', port: 1 });
  // @ts-expect-error A callback that returns nothing would let nobody in.
  createTlsServer(source, { authorize: () => { server.close(); } }, () => undefined);
  // @ts-expect-error What was granted is not changed.
  token.token = 'other';
  socket.destroy();
  return [token.spiffeId];
}
`;

/** What the library can do beside the agent that the environment names. */
const agentProgram = `
import { once } from 'node:events';
import { get } from 'node:https';
import { authorizeAny, authorizeId, BundleSource, connectTls, createHttpsServer, createTlsServer, httpsAgent, JwtSource, parseSpiffeId, peerOf, validateJwtSvid, WorkloadApi, X509Source } from '@steeple/client';
const api = new WorkloadApi();
const [source, tokens, bundles] = await Promise.all([X509Source.open({ api }), JwtSource.open({ api }), BundleSource.open({ api })]);
const web = parseSpiffeId('${web}');
const server = createTlsServer(source, { authorize: authorizeAny() }, (socket, peer) => socket.end('hello ' + peer.spiffeId));
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const to = { host: '127.0.0.1', port: server.address().port };
let answer = '';
for await (const part of (await connectTls(source, { ...to, authorize: authorizeId(web) })).setEncoding('utf8')) answer += part;
const told = (error) => error.kind + ' ' + error.reason;
const refused = await connectTls(source, { ...to, authorize: () => false }).then(() => 'let in', told);
const pages = createHttpsServer(source, { authorize: authorizeAny() }, (request, response) => response.end('page for ' + peerOf(request.socket).spiffeId));
pages.listen(0, '127.0.0.1');
await once(pages, 'listening');
const agent = httpsAgent(source, { authorize: authorizeId(web) });
const [response] = await once(get({ host: '127.0.0.1', port: pages.address().port, agent }), 'response');
let page = response.statusCode + ' ';
for await (const part of response.setEncoding('utf8')) page += part;
const token = await tokens.fetchJwtSvid({ audience: 'db' });
let wrongAudience = 'accepted';
try { tokens.validate(token.token, 'other'); } catch (error) { wrongAudience = told(error); }
console.log(JSON.stringify({
  node: process.version.replace(/\\..*/, ''),
  ids: source.context.value.svids.map((svid) => svid.spiffeId),
  bundles: [...bundles.bundles.value.keys()],
  answer, page, refused, token: [token.spiffeId, token.audience],
  validated: [(await api.validateJwtSvid(token.token, 'db')).spiffeId, validateJwtSvid(token.token, { audience: 'db', bundles }).spiffeId],
  wrongAudience,
}));
agent.destroy();
server.close();
pages.close();
await Promise.all([source.close(), tokens.close(), bundles.close()]);
api.close();
`;

const fakeProgram = `
import { createFakeAuthority, FakeWorkloadApi } from '@steeple/client/testing';
import { WorkloadApi, X509Source } from '@steeple/client';
const fake = await FakeWorkloadApi.start();
const api = new WorkloadApi({ address: fake.address });
const before = await api.fetchX509Svid().catch((error) => error.kind + ' ' + error.reason);
fake.grant('/web');
fake.contrary({ seed: 1 });
const source = await X509Source.open({ api });
const serials = new Set([source.svid.serial]);
fake.contrary(undefined);
fake.federate(createFakeAuthority('other.test').bundle);
fake.rotate();
const stop = new AbortController();
for await (const { svids } of source.context.values(stop.signal)) if (svids[0].serial === fake.svids[0].serial) stop.abort();
serials.add(source.svid.serial);
const federated = [...source.context.value.bundles.keys()];
fake.deny();
const after = await api.fetchX509Svid().catch((error) => error.kind);
console.log(JSON.stringify({ before, serials: serials.size, rotated: source.svid.serial === fake.svids[0]?.serial || fake.svids.length === 0, after, federated }));
await source.close();
api.close();
await fake.close();
`;

async function versionOf(name: string): Promise<string> {
  return (JSON.parse(await readFile(join(root, 'node_modules', name, 'package.json'), 'utf8')) as { version: string }).version;
}

function npm(cwd: string, ...args: string[]): Promise<unknown> {
  return exec('npm', args, { cwd, env: { ...process.env, PATH: path }, maxBuffer: 64 * 1024 * 1024 });
}
