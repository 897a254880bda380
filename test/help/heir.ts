/**
 * Two processes and one connection: `node heir.ts open PROGRAM` connects to the agent's socket, hands the descriptor to a
 * child that runs from PROGRAM, and ends when its input does; the child lives on and asks over that connection when it gets
 * SIGUSR2. Both print JSON lines to the same output.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { loadServices } from '../../proto/load.ts';
import { connectSocket, openStreamSocket } from '../../runtime/linux.ts';

const [act = '', program = ''] = process.argv.slice(2);
const handedOver = 3;
const { FetchX509SVID } = loadServices('SpiffeWorkloadAPI').SpiffeWorkloadAPI;

function say(event: string, more: object = {}): void {
  process.stdout.write(`${JSON.stringify({ event, at: Date.now(), ...more })}\n`);
}

async function open(): Promise<void> {
  const fd = openStreamSocket();
  connectSocket(fd, (process.env['SPIFFE_ENDPOINT_SOCKET'] ?? '').replace('unix://', ''));
  const heir = spawn(program, [fileURLToPath(import.meta.url), 'inherit'], { stdio: ['ignore', 'inherit', 'inherit', fd], detached: true });
  heir.unref();
  say('opened', { pid: process.pid, heir: heir.pid });
  process.stdin.resume();
  await once(process.stdin, 'end');
  process.exit(0);
}

/** A stream asked for on the inherited connection; the first for each signal. */
async function inherit(): Promise<void> {
  // The other end may be gone for long, so the file is not read before it is told to.
  const socket = new Socket({ fd: handedOver, readable: true, writable: true });
  let session: ReturnType<typeof connectHttp2> | undefined;
  const ended = (how: string): void => say('ended', { how });
  const ask = (): void => {
    session ??= connectHttp2('http://localhost', { createConnection: () => socket });
    session.on('error', (error: Error) => ended(error.message));
    const request = session.request({
      ':method': 'POST',
      ':path': FetchX509SVID.path,
      'content-type': 'application/grpc',
      te: 'trailers',
      'workload.spiffe.io': 'true',
    });
    let received = Buffer.alloc(0);
    request.on('data', (more: Buffer) => {
      received = Buffer.concat([received, more]);
      const length = received.length < 5 ? Number.POSITIVE_INFINITY : received.readUInt32BE(1);
      if (received.length < 5 + length) return;
      const { svids } = FetchX509SVID.responseDeserialize(received.subarray(5, 5 + length));
      received = received.subarray(5 + length);
      say('svids', { svids: svids.map(({ spiffe_id }) => ({ spiffeId: spiffe_id })) });
    });
    request.on('error', () => undefined);
    request.on('close', () => ended('stream'));
    request.end(Buffer.alloc(5));
  };
  process.on('SIGUSR2', ask);
  say('inherited');
  // Nobody is left to end it when the test fails.
  setTimeout(() => process.exit(0), 60_000);
  await once(socket, 'close');
  ended('connection');
}

await (act === 'open' ? open() : inherit());
