/**
 * A workload as the library's users write it, told what to do by its arguments: `node workload.ts ACT …`. It prints one
 * JSON object a line, errors as `refused` with kind and reason, and ends when its input does.
 */
import { once } from 'node:events';
import { connect, type AddressInfo } from 'node:net';
import { connect as connectPlainly } from 'node:tls';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectTls, createTlsServer, parseSpiffeId, SpiffeError, WorkloadApi, X509Source } from '../../client/index.ts';
import type { X509Context } from '../../client/index.ts';

const [act = '', ...args] = process.argv.slice(2);
const over = new AbortController();
process.stdin.resume();
process.stdin.once('end', () => over.abort());

function say(event: string, more: object = {}): void {
  process.stdout.write(`${JSON.stringify({ event, at: Date.now(), ...more })}\n`);
}

function sayRefused(error: unknown): void {
  const { kind, reason, message } = error instanceof SpiffeError ? error : { kind: 'internal', reason: 'workload', message: String(error) };
  say('refused', { kind, reason, message });
}

function saySvids({ svids, bundles }: X509Context): void {
  say('svids', {
    svids: svids.map(({ spiffeId, serial, notBeforeAt, expiresAt, hint }) => ({ spiffeId, serial, notBeforeAt, expiresAt, hint })),
    authorities: [...bundles.values()].reduce((sum, list) => sum + list.length, 0),
  });
}

const acts: Readonly<Record<string, () => Promise<void>>> = {
  /** Every update; lost streams are told and made again. */
  async watch() {
    using api = new WorkloadApi();
    for await (const context of api.watchX509Context(over.signal)) saySvids(context);
  },

  /** Waits for an identity, then says every update, as an X509Source has it. */
  async source() {
    await using source = await X509Source.open({ signal: over.signal });
    for await (const context of source.context.values(over.signal)) saySvids(context);
  },

  /** One answer to each kind of call; `fetch AUDIENCE` for a token too. */
  async fetch() {
    using api = new WorkloadApi();
    const [audience] = args;
    await api.fetchX509Context({ deadlineMs: 5_000 }).then(saySvids, sayRefused);
    if (audience === undefined) return;
    await api.fetchJwtSvids({ audience }, { deadlineMs: 5_000 }).then(
      (svids) => say('tokens', { tokens: svids.map(({ spiffeId, token, expiresAt }) => ({ spiffeId, token, expiresAt })) }),
      sayRefused,
    );
  },

  /** One stream, not made again: says what it brings and why it ended. */
  async stream() {
    const { loadServices } = await import('../../proto/load.ts');
    const { createRpcClient } = await import('../../runtime/rpc/call.ts');
    const { systemClock } = await import('../../runtime/clock.ts');
    const { workloadEndpoint } = await import('../../client/index.ts');
    const client = createRpcClient({ clock: systemClock, address: workloadEndpoint() });
    const service = loadServices('SpiffeWorkloadAPI').SpiffeWorkloadAPI;
    try {
      const updates = client.serverStream(service.FetchX509SVID, {}, { headers: { 'workload.spiffe.io': 'true' }, signal: over.signal });
      for await (const { svids } of updates) say('svids', { svids: svids.map(({ spiffe_id }) => ({ spiffeId: spiffe_id })) });
    } catch (error) {
      sayRefused(error);
    } finally {
      client.close();
    }
  },

  /** `serve PEER`: answers a line of the one peer it lets in; says each that it does not. */
  async serve() {
    const peer = parseSpiffeId(args[0] ?? '');
    await using source = await X509Source.open({ signal: over.signal });
    const serials = new Set<string>();
    let accepted = 0;
    const server = createTlsServer(
      source,
      { authorize: (id) => id === peer, refused: ({ kind, reason }) => say('refused', { kind, reason }) },
      (socket) => {
        accepted += 1;
        serials.add(socket.getPeerCertificate().serialNumber);
        socket.on('error', () => undefined);
        // A line is as short as one record.
        socket.once('data', (line: Buffer) => socket.end(`answer to ${line.toString()}`));
      },
    );
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    say('listening', { port: (server.address() as AddressInfo).port, spiffeId: source.svid.spiffeId });
    await once(over.signal, 'abort').catch(() => undefined);
    say('served', { accepted, clientSvids: serials.size });
    server.close();
  },

  /**
   * `call PORT PEER PAIRS EVERY_MS`: so many pairs at once, a handshake and an exchange each time, until its input ends;
   * says each failure, each new SVID of its own, and the counts.
   */
  async call() {
    const [port = '', peerText = '', pairs = '1', every = '100'] = args;
    const peer = parseSpiffeId(peerText);
    await using source = await X509Source.open({ signal: over.signal });
    const theirs = new Set<string>();
    let [exchanges, failures, rotations] = [0, 0, 0];
    const following = (async () => {
      for await (const context of source.context.values(over.signal)) {
        rotations += 1;
        saySvids(context);
      }
    })();
    const exchange = async (): Promise<void> => {
      const socket = await connectTls(source, { host: '127.0.0.1', port: Number(port), authorize: (id) => id === peer });
      try {
        theirs.add(socket.getPeerCertificate().serialNumber);
        const answered = new AbortController();
        socket.once('close', () => answered.abort(new Error('closed without an answer')));
        socket.write('ping\n');
        const [answer] = (await once(socket, 'data', { signal: answered.signal })) as [Buffer];
        if (answer.toString() !== 'answer to ping\n') throw new Error('another answer');
        exchanges += 1;
      } finally {
        socket.destroy();
      }
    };
    const loop = async (): Promise<void> => {
      while (!over.signal.aborted) {
        await exchange().catch((error: unknown) => {
          failures += 1;
          sayRefused(error);
        });
        if (exchanges === 1) say('exchanged');
        await sleep(Number(every), undefined, { signal: over.signal }).catch(() => undefined);
      }
    };
    await Promise.all(Array.from({ length: Number(pairs) }, loop));
    await following;
    say('called', { exchanges, failures, ownSvids: rotations, serverSvids: theirs.size });
  },

  /** `call-anonymously PORT`: a TLS client without an SVID; says how it was told off. */
  async 'call-anonymously'() {
    const socket = connectPlainly({ port: Number(args[0]), host: '127.0.0.1', rejectUnauthorized: false });
    socket.on('error', (error) => say('ended', { message: error.message }));
    socket.on('data', (data: Buffer) => say('answered', { text: data.toString() }));
    socket.on('close', () => say('closed'));
    socket.write('ping\n');
    await once(socket, 'close');
  },

  /** `fetch-often COUNT`: asks for X509-SVIDs and a token so often, on one connection after the other. */
  async 'fetch-often'() {
    let [answered, failures] = [0, 0];
    for (let count = Number(args[0]); count > 0 && !over.signal.aborted; count -= 1) {
      using api = new WorkloadApi();
      try {
        await api.fetchX509Context({ deadlineMs: 10_000 });
        await api.fetchJwtSvids({ audience: 'db' }, { deadlineMs: 10_000 });
        answered += 1;
      } catch (error) {
        failures += 1;
        sayRefused(error);
      }
    }
    say('fetched', { answered, failures });
  },

  /** `knock MS UID`: as that user, connects to the agent's socket as fast as it goes for so long; says how it went. */
  async knock() {
    const [ms = '1000', uid = ''] = args;
    if (uid !== '') process.setuid?.(Number(uid));
    const socketPath = (process.env['SPIFFE_ENDPOINT_SOCKET'] ?? '').replace('unix://', '');
    let [connected, refused] = [0, 0];
    const one = async (): Promise<void> => {
      const socket = connect(socketPath);
      try {
        await once(socket, 'connect');
        connected += 1;
        // Some stay, so that connections are short as well.
        if (connected % 8 === 0) await sleep(200);
      } catch {
        refused += 1;
      } finally {
        socket.destroy();
      }
    };
    say('knocking');
    const end = Date.now() + Number(ms);
    await Promise.all(
      Array.from({ length: 256 }, async () => {
        while (Date.now() < end && !over.signal.aborted) await one();
      }),
    );
    say('knocked', { connected, refused });
  },
};

try {
  const run = acts[act];
  if (run === undefined) throw new Error(`no such act: ${act}`);
  await run();
} catch (error) {
  if (!over.signal.aborted) sayRefused(error);
} finally {
  process.stdin.destroy();
}
