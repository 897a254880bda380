/**
 * A workload that means no good: `node hostile.ts ACT …`, with the agent's socket in SPIFFE_ENDPOINT_SOCKET. It prints one
 * JSON object a line; what it must not achieve is for the tests to say.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { loadServices } from '../../proto/load.ts';
import { connectSocket, openStreamSocket } from '../../runtime/linux.ts';

const [act = '', ...args] = process.argv.slice(2);
const socketPath = (process.env['SPIFFE_ENDPOINT_SOCKET'] ?? '').replace('unix://', '');
const { FetchX509SVID } = loadServices('SpiffeWorkloadAPI').SpiffeWorkloadAPI;

function say(event: string, more: object = {}): void {
  process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);
}

function ask(session: ClientHttp2Session): ClientHttp2Stream {
  const request = session.request({
    ':method': 'POST',
    ':path': FetchX509SVID.path,
    'content-type': 'application/grpc',
    te: 'trailers',
    'workload.spiffe.io': 'true',
  });
  request.on('error', () => undefined);
  request.end(Buffer.alloc(5));
  return request;
}

function open(): ClientHttp2Session {
  const socket = connect(socketPath);
  socket.on('error', () => undefined);
  const session = connectHttp2('http://localhost', { createConnection: () => socket });
  session.on('error', () => undefined);
  return session;
}

const acts: Readonly<Record<string, () => Promise<void>>> = {
  /**
   * `lend PROGRAM [UID] [THEN …]`: hands a connection to a child that runs from PROGRAM, as another user if there is a UID
   * that is not `-`, and when its input ends becomes THEN, or exits.
   */
  async lend() {
    const [program = '', uid = '-', ...then] = args;
    const fd = openStreamSocket();
    connectSocket(fd, socketPath);
    const heir = fileURLToPath(new URL('heir.ts', import.meta.url));
    const as = uid === '-' ? {} : { uid: Number(uid), gid: Number(uid) };
    const child = spawn(program, [heir, 'inherit'], { ...as, stdio: ['ignore', 'inherit', 'inherit', fd], detached: true });
    child.unref();
    say('opened', { heir: child.pid });
    process.stdin.resume();
    await once(process.stdin, 'end');
    const [file] = then;
    if (file === undefined) process.exit(0);
    process.execve?.(file, then, {});
  },

  /** `streams COUNT`: so many connections with a stream each; whoever started it stops it from reading on. */
  async streams() {
    const sessions = Array.from({ length: Number(args[0]) }, open);
    await Promise.all(sessions.map(async (session) => once(ask(session), 'data').catch(() => undefined)));
    say('streaming');
    setInterval(() => undefined, 1_000);
  },

  /** `cycle COUNT`: connects, and leaves at another step each time. */
  async cycle() {
    const steps: readonly (() => Promise<void>)[] = [
      async () => {
        const socket = connect(socketPath);
        socket.on('error', () => undefined);
        await once(socket, 'connect');
        socket.destroy();
      },
      async () => {
        const session = open();
        ask(session);
        session.destroy();
      },
      async () => {
        const session = open();
        await once(ask(session), 'response');
        session.destroy();
      },
      async () => {
        const session = open();
        const request = ask(session);
        await once(request, 'data');
        request.close();
        session.close();
      },
      async () => {
        const socket = connect(socketPath);
        socket.on('error', () => undefined);
        await once(socket, 'connect');
        socket.end('no HTTP at all\r\n\r\n');
        await once(socket.resume(), 'close');
      },
    ];
    let done = 0;
    for (; done < Number(args[0]); done += 1) await steps[done % steps.length]?.();
    // Some of it is left to the end of the process.
    const last = open();
    await once(ask(last), 'data');
    say('cycled', { done });
    process.exit(0);
  },
};

await acts[act]?.();
