/**
 * Handshakes of the library's TLS ends against those of plain `node:tls` with the same certificates: mutual, of one process
 * with itself, turn about, so that both have the same machine. Each connection carries a byte and ends.
 */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import process from 'node:process';
import { connect, type ConnectionOptions, createSecureContext, createServer, type Server, type TLSSocket } from 'node:tls';
import { authorizeAny } from '../../client/authorize.ts';
import { connectTls, tlsClientOptions } from '../../client/tls.ts';
import { createTlsServer } from '../../client/tls-server.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { alpha, beta, home, sourceOf } from '../help/tls-world.ts';
import { rounded, type Bench } from './figure.ts';

const turnMs = 700;
const turns = 6;
const lanes = 4;
const host = '127.0.0.1';

interface Contestant {
  readonly name: string;
  readonly server: Server;
  connect(port: number): Promise<TLSSocket>;
}

function plainOf(svid: X509Svid) {
  return {
    cert: svid.chain.map((der) => new X509Certificate(der).toString()).join(''),
    key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
    ca: [new X509Certificate(home.certificate).toString()],
  };
}

function answer(socket: TLSSocket): void {
  socket.on('error', () => undefined);
  socket.end('.');
}

function contestants(): readonly Contestant[] {
  const [own, other] = [home.svid(alpha), home.svid(beta)];
  const authorize = authorizeAny();
  const [clientSource, serverSource] = [sourceOf(own), sourceOf(other)];
  const secureContext = createSecureContext(plainOf(own));
  const dial = async (options: ConnectionOptions): Promise<TLSSocket> => {
    const socket = connect(options);
    await once(socket, 'secureConnect');
    return socket;
  };
  const settings = { authorize };
  const options = tlsClientOptions(clientSource, settings);
  const serve = (): Server => createTlsServer(serverSource, settings, answer);
  return [
    {
      name: 'plain',
      server: createServer({ ...plainOf(other), requestCert: true, rejectUnauthorized: true }, answer),
      connect: (port) => dial({ secureContext, host, port, checkServerIdentity: () => undefined }),
    },
    { name: 'connectTls', server: serve(), connect: (port) => connectTls(clientSource, { host, port, authorize }) },
    { name: 'tlsClientOptions', server: serve(), connect: (port) => dial({ ...options, host, port }) },
  ];
}

interface Turn {
  readonly perSecond: number;
  /** Processor time of both ends, which a busy machine does not change. */
  readonly microseconds: number;
}

async function turn({ connect: dial }: Contestant, port: number, ms: number): Promise<Turn> {
  const began = performance.now();
  const before = process.cpuUsage();
  let done = 0;
  await Promise.all(
    Array.from({ length: lanes }, async () => {
      while (performance.now() - began < ms) {
        const socket = await dial(port);
        socket.resume();
        await once(socket, 'end');
        socket.destroy();
        done += 1;
      }
    }),
  );
  const { user, system } = process.cpuUsage(before);
  return { perSecond: (done * 1_000) / (performance.now() - began), microseconds: (user + system) / done };
}

export const handshakes: Bench = {
  name: 'handshakes',
  within: 60,
  async run(report) {
    const all = contestants();
    const ports = new Map<Contestant, number>();
    const rates = new Map<Contestant, Turn[]>(all.map((one) => [one, []]));
    for (const one of all) {
      one.server.listen(0, host);
      await once(one.server, 'listening');
      ports.set(one, (one.server.address() as AddressInfo).port);
      await turn(one, ports.get(one) ?? 0, turnMs / 2);
    }
    for (let round = 0; round < turns; round += 1) {
      for (const one of all) rates.get(one)?.push(await turn(one, ports.get(one) ?? 0, turnMs));
    }
    for (const one of all) one.server.close();
    const median = (one: Contestant, of: keyof Turn): number => (rates.get(one) ?? []).map((taken) => taken[of]).toSorted((a, b) => a - b)[turns / 2] ?? 0;
    const [plain, ...ours] = all;
    if (plain === undefined) return;
    for (const one of ours) {
      report({
        figure: `mutual handshakes, library through ${one.name}`,
        unit: 'per second',
        aim: '>= 95 % of plain node:tls with the same certificates',
        value: rounded(median(one, 'perSecond')),
        also: {
          plain: rounded(median(plain, 'perSecond')),
          percent: rounded((100 * median(one, 'perSecond')) / median(plain, 'perSecond')),
          percentByProcessorTime: rounded((100 * median(plain, 'microseconds')) / median(one, 'microseconds')),
          lanes,
          turns,
        },
      });
    }
  },
};
