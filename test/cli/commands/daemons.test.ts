import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { loadServices } from '../../../proto/load.ts';
import { rpcService } from '../../../runtime/rpc/handlers.ts';
import { serveOnSocket, steeple } from '../../help/cli.ts';
import { startLiveServer } from '../../help/live-server.ts';

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-daemons-'));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

async function file(name: string, text: string): Promise<string> {
  await writeFile(join(directory, name), text, { mode: 0o600 });
  return join(directory, name);
}

describe('server validate', () => {
  it('puts flags over the file, and paths on their feet', async () => {
    const config = await file('server.yaml', 'trust_domain: example.org\nlisten: {port: 9000, address: 10.0.0.1}\nlog: {level: warn}\n');
    const flags = ['-config', config, '--port', '9001', '--data-dir', 'state', '-socketPath', 'api.sock', '-logLevel', 'debug', '--log-format', 'human'];
    const { code, out, err } = await steeple(['server', 'validate', ...flags]);
    expect([code, err]).toEqual([0, '']);
    expect(parse(out)).toMatchObject({
      trust_domain: 'example.org', data_dir: resolve('state'), socket_path: resolve('api.sock'),
      listen: { port: 9001, address: '10.0.0.1' }, log: { level: 'debug', format: 'human' },
    });
  });

  it('needs no file, and can read what it prints', async () => {
    const { out } = await steeple(['server', 'validate', '--trust-domain', 'example.org']);
    const printed = await file('printed.yaml', out);
    expect((await steeple(['server', 'validate', '--config', printed])).out).toBe(out);
  });

  it('names every problem with its path', async () => {
    const config = await file('wrong.yaml', 'trust_domain: A\nlisten: {port: 70000}\nsvids: {x509_ttl: soon}\nextra: 1\n');
    const { code, out, err } = await steeple(['server', 'validate', '--config', config]);
    expect([code, out]).toEqual([78, '']);
    expect(err.trim().split('\n').map((line) => line.split(':')[0] ?? '').toSorted()).toEqual(['extra', 'listen.port', 'svids.x509_ttl', 'trust_domain']);
  });

  it('refuses a socket path that the kernel does not take, by name', async () => {
    const { code, err } = await steeple(['server', 'validate', '--trust-domain', 'example.org', '--socket', `/${'x'.repeat(107)}`]);
    expect(code).toBe(78);
    expect(err).toMatch(/^socket_path: .*107/);
  });

  it('refuses a file that is not there', async () => {
    expect((await steeple(['server', 'validate', '--config', '/nonexistent/server.yaml'])).err).toContain('/nonexistent/server.yaml');
  });
});

describe('agent validate', () => {
  it("takes SPIRE's spellings, and shows no token", async () => {
    const flags = '-trustDomain example.org -serverAddress server.test -serverPort 9000 -joinToken a-secret-token-of-mine -dataDir state -socketPath public/api.sock -logLevel warn -insecureBootstrap';
    const { code, out, err } = await steeple(['agent', 'validate', ...flags.split(' ')]);
    expect([code, err]).toEqual([0, '']);
    expect(out).not.toContain('a-secret-token');
    expect(parse(out)).toMatchObject({
      trust_domain: 'example.org', server: { address: 'server.test', port: 9000 }, data_dir: resolve('state'),
      socket_path: resolve('public/api.sock'), trust_bundle: { insecure: true }, log: { level: 'warn' },
    });
  });

  it('takes a bundle from a file or a pinned hash', async () => {
    const bundle = await steeple(['agent', 'validate', '--trust-domain', 'example.org', '--trust-bundle', 'b.json', '--trust-bundle-format', 'spiffe', '--join-token-file', 't']);
    expect(parse(bundle.out)).toMatchObject({ trust_bundle: { path: resolve('b.json'), format: 'spiffe' }, attestor: { token_file: resolve('t') } });
    const pin = 'ab'.repeat(32);
    expect(parse((await steeple(['agent', 'validate', '--trust-domain', 'example.org', '--trust-pin', pin])).out)).toMatchObject({ trust_bundle: { pin } });
    expect((await steeple(['agent', 'validate', '--trust-domain', 'example.org', '--trust-pin', pin, '--insecure-bootstrap'])).code).toBe(78);
  });

  it('names every problem with its path', async () => {
    const { code, err } = await steeple(['agent', 'validate', '--server-port', '0', '--socket', `/${'x'.repeat(107)}`]);
    expect(code).toBe(78);
    expect(err).toMatch(/^trust_domain: /m);
    expect(err).toMatch(/^server\.port: /m);
    expect(err).toMatch(/^socket_path: /m);
  });
});

describe('healthcheck', () => {
  async function check(status: 'SERVING' | 'NOT_SERVING', ...args: string[]) {
    const { 'grpc.health.v1.Health': definition } = loadServices('grpc.health.v1.Health');
    const unused = (): never => {
      throw new Error('not asked');
    };
    await using socket = await serveOnSocket(rpcService(definition, { Check: async () => ({ status }), List: unused, Watch: unused }));
    return { server: await steeple(['server', 'healthcheck', '--socket', socket.path, ...args]), agent: await steeple(['agent', 'healthcheck', '--socket', socket.path, ...args]) };
  }

  it('exits 0 when it serves, 1 when it does not', async () => {
    expect(await check('SERVING')).toEqual({ server: { code: 0, out: 'server is healthy\n', err: '' }, agent: { code: 0, out: 'agent is healthy\n', err: '' } });
    expect(await check('NOT_SERVING')).toEqual({ server: { code: 1, out: '', err: 'server is not ready\n' }, agent: { code: 1, out: '', err: 'agent is not ready\n' } });
  });

  it('is content with any answer when shallow, and says more when verbose', async () => {
    expect((await check('NOT_SERVING', '--shallow', '--verbose')).server).toMatchObject({ code: 0, err: expect.stringContaining('answers NOT_SERVING') });
  });

  it('exits 1 when nobody is there', async () => {
    for (const who of ['server', 'agent']) {
      expect(await steeple([who, 'healthcheck', '--socket', '/nonexistent/x.sock'])).toEqual({ code: 1, out: '', err: `${who} is unhealthy\n` });
      expect((await steeple([who, 'healthcheck', '--socket', '/nonexistent/x.sock', '-verbose'])).err).toContain('/nonexistent/x.sock');
    }
  });

  it('holds against the server itself', async () => {
    await using server = await startLiveServer();
    expect(await steeple(['server', 'healthcheck'], { env: { SPIRE_SERVER_PRIVATE_SOCKET: server.socket } })).toMatchObject({ code: 0 });
  });
});

describe('server backup and restore', () => {
  it('bring back what was there, and ask before they replace', async () => {
    const flags = ['--trust-domain', 'example.org'];
    const copy = join(directory, 'copy');
    let state: string;
    {
      await using server = await startLiveServer();
      state = server.directory;
      await steeple(['entry', 'create', '--socket', server.socket, '--id', 'kept', '--parent-id', 'spiffe://example.org/n', '--spiffe-id', 'spiffe://example.org/a', '--selector', 'unix:uid:0']);
      expect(await steeple(['server', 'backup', ...flags, '--data-dir', state, copy])).toMatchObject({ code: 0, out: expect.stringContaining('example.org') });
      expect((await steeple(['server', 'backup', ...flags, '--data-dir', state, copy])).code).toBe(78);
    }
    const fresh = join(directory, 'fresh');
    expect(await steeple(['server', 'restore', ...flags, '--data-dir', fresh, copy])).toMatchObject({ code: 0, err: '' });
    const twice = await steeple(['server', 'restore', ...flags, '--data-dir', fresh, copy]);
    expect(twice.code).not.toBe(0);
    expect(await steeple(['server', 'restore', ...flags, '--data-dir', fresh, '--replace', copy])).toMatchObject({ code: 0 });
    await chmod(fresh, 0o700);
  });

  it('want a directory', async () => {
    expect((await steeple(['server', 'backup', '--trust-domain', 'example.org'])).code).toBe(2);
    expect((await steeple(['server', 'restore', '--trust-domain', 'example.org', '/nonexistent/backup'])).code).not.toBe(0);
  });
});
