/**
 * The server itself, whole, in this process: on an operators' socket and a port of its own, on a store in a directory that
 * goes with it.
 */
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../runtime/clock.ts';
import { runServer } from '../../server/main.ts';
import { steeple } from './cli.ts';

export interface LiveServer extends AsyncDisposable {
  readonly socket: string;
  readonly directory: string;
}

/**
 * Resolves once it is ready.
 * @param more further keys of its file; YAML
 */
export async function startLiveServer(more = ''): Promise<LiveServer> {
  const directory = await mkdtemp(join(tmpdir(), 'steeple-live-'));
  const socket = join(directory, 'api.sock');
  const config = join(directory, 'server.yaml');
  await writeFile(
    config,
    `trust_domain: example.org\ndata_dir: ${directory}\nsocket_path: ${socket}\nlisten: {address: 127.0.0.1, port: ${await freePort()}}\nlog: {level: warn}\n${more}`,
  );
  const lines: string[] = [];
  const stop = new AbortController();
  const io = { out: (text: string) => void lines.push(text), err: (text: string) => void lines.push(text), env: {}, signal: stop.signal };
  let over = false;
  const running = runServer({ config, overlays: [] }, 'test', io).finally(() => (over = true));
  while ((await steeple(['server', 'healthcheck', '--socket', socket])).code !== 0) {
    if (over) throw new Error(`the server does not start: ${lines.join('')}`);
    await systemClock.sleep(20);
  }
  return {
    socket,
    directory,
    async [Symbol.asyncDispose]() {
      stop.abort(new Error('the test is over'));
      await running;
      await rm(directory, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}
