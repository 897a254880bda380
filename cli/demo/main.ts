/**
 * One of the demo's workloads: it takes its identity from the Workload API as any program would, and talks mutual TLS with
 * it. What it lives through it says in JSON, a line each; the demo shows them.
 * Usage: `node main.ts alpha|mallory PORT` or `node main.ts beta PORT`, with SPIFFE_ENDPOINT_SOCKET set.
 */
import { once } from 'node:events';
import process from 'node:process';
import { createInterface } from 'node:readline';
import type { Server, TLSSocket } from 'node:tls';
import { authorizeId, connectTls, createTlsServer, parseSpiffeId, SpiffeError, type SpiffeId, X509Source, type X509Svid } from '../../client/index.ts';
import { systemClock } from '../../runtime/clock.ts';

const alpha = parseSpiffeId('spiffe://example.org/alpha');
const beta = parseSpiffeId('spiffe://example.org/beta');
const host = '127.0.0.1';
const answerMs = 3_000;

function say(what: string, more: string): void {
  process.stdout.write(`${JSON.stringify({ what, more })}\n`);
}

async function tellRotations(source: X509Source, signal: AbortSignal): Promise<void> {
  let serial = '';
  for await (const { svids } of source.context.values(signal)) {
    const [svid] = svids;
    if (svid === undefined || svid.serial === serial) continue;
    say(serial === '' ? 'received' : 'rotated', `serial ${svid.serial.slice(0, 12)}… as ${svid.spiffeId}, ${life(svid)}`);
    serial = svid.serial;
  }
}

function life({ expiresAt }: X509Svid): string {
  return `good for ${Math.round((expiresAt - systemClock.now()) / 1000)} s`;
}

/** Answers what alpha says, and nobody else. */
async function serve(source: X509Source, port: number, signal: AbortSignal): Promise<void> {
  const authorize = (peer: SpiffeId): boolean => {
    if (peer === alpha) return true;
    throw new SpiffeError('denied', 'demo.not-alpha', `${peer}: only ${alpha} may call`);
  };
  const refused = (error: SpiffeError): void => say('refused', error.message);
  const open = new Set<TLSSocket>();
  const server: Server = createTlsServer(source, { authorize, refused }, (socket) => {
    open.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => open.delete(socket));
    createInterface({ input: socket }).on('line', (line) => socket.end(`${line}\n`));
  });
  server.listen({ port, host });
  await once(server, 'listening');
  say('listening', `on ${host} port ${port}, for ${alpha} alone`);
  await aborted(signal);
  server.close();
  for (const socket of open) socket.destroy();
}

/** Says hello every few seconds, each time over a new connection. */
async function call(source: X509Source, port: number, pauseMs: number, signal: AbortSignal): Promise<void> {
  for (let number = 1; !signal.aborted; number += 1) {
    try {
      const answer = await exchange(source, port, `hello ${number}`, signal);
      say('exchanged', `"${answer}" with ${beta}`);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof SpiffeError && error.reason === 'source.connect') say('waits', error.message);
      else say('refused', `by ${beta}, as ${source.svid.spiffeId} (${error instanceof Error ? error.message : String(error)})`);
    }
    await systemClock.sleep(pauseMs, signal).catch(() => undefined);
  }
}

async function exchange(source: X509Source, port: number, text: string, signal: AbortSignal): Promise<string> {
  const limit = new AbortController();
  const stop = AbortSignal.any([signal, limit.signal]);
  systemClock.sleep(answerMs, stop).then(
    () => limit.abort(new SpiffeError('unavailable', 'demo.silence', 'no answer came')),
    () => undefined,
  );
  const socket = await connectTls(source, { host, port, signal: stop, authorize: authorizeId(beta) });
  const drop = (): void => void socket.destroy();
  stop.addEventListener('abort', drop, { once: true });
  try {
    return await new Promise<string>((resolve, reject) => {
      let answer = '';
      socket.setEncoding('utf8');
      socket.on('data', (part: string) => (answer += part));
      socket.once('end', () => resolve(answer.trim()));
      socket.once('error', reject);
      socket.once('close', () => reject(new SpiffeError('denied', 'demo.closed', 'the connection was closed')));
      socket.write(`${text}\n`);
    }).then((answer) => {
      if (answer === '') throw new SpiffeError('denied', 'demo.closed', 'the connection was closed');
      return answer;
    });
  } finally {
    stop.removeEventListener('abort', drop);
    limit.abort();
    socket.destroy();
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

async function main(role: string | undefined, port: number): Promise<void> {
  const stop = new AbortController();
  const end = (): void => stop.abort();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, end);
  // It ends with the demo, however the demo ends.
  process.stdin.on('end', end).resume();
  process.stdin.on('error', end);
  process.stdout.on('error', end);
  const { signal } = stop;
  const source = await X509Source.open({ signal }).catch((error: unknown) => {
    if (signal.aborted) return undefined;
    throw error;
  });
  if (source === undefined) return;
  const telling = tellRotations(source, signal);
  if (role === 'beta') await serve(source, port, signal);
  else await call(source, port, role === 'alpha' ? 3_000 : 10_000, signal);
  await source.close();
  await telling;
  process.stdin.destroy();
}

await main(process.argv[2], Number(process.argv[3]));
