/**
 * One corner of the matrix with our own library, as its users write it; what is said is in README.md.
 */
import { createInterface } from 'node:readline';
import type { AddressInfo } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { authorizeId, authorizeMemberOf, connectTls, createTlsServer, JwtSource, parseSpiffeId, trustDomainOf, X509Source } from '../../../client/index.ts';

const say = (event: string, fields: object): void => void process.stdout.write(`${JSON.stringify({ event, at: Date.now(), ...fields })}\n`);
const told = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const source = await X509Source.open();
const tokens = await JwtSource.open();
const own = source.svid.spiffeId;

async function firstLine(socket: TLSSocket): Promise<string> {
  let text = '';
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    text += String(chunk);
    if (text.includes('\n')) return text.slice(0, text.indexOf('\n'));
  }
  throw new Error('the connection ended without a line');
}

const server = createTlsServer(source, { authorize: authorizeMemberOf(trustDomainOf(own)) }, (socket, peer) => {
  socket.on('error', () => undefined);
  firstLine(socket)
    .then((token) => {
      const { spiffeId: subject } = tokens.validate(token, own);
      socket.end(`${JSON.stringify({ caller: peer?.spiffeId, subject })}\n`);
    })
    .catch((error: unknown) => {
      say('refused', { error: told(error) });
      socket.destroy();
    });
});
server.listen(0, '127.0.0.1', () => say('listening', { port: (server.address() as AddressInfo).port, id: own }));

async function call(port: number, to: string): Promise<void> {
  const peer = parseSpiffeId(to);
  const { token } = await tokens.fetchJwtSvid({ audience: peer });
  const socket = await connectTls(source, { host: '127.0.0.1', port, authorize: authorizeId(peer) });
  socket.write(`${token}\n`);
  const peerSerial = BigInt(`0x${socket.getPeerX509Certificate()?.serialNumber ?? '0'}`).toString(16);
  const reply: unknown = JSON.parse(await firstLine(socket));
  socket.destroy();
  say('called', { peer, reply, peerSerial, ownSerial: BigInt(`0x${source.svid.serial}`).toString(16) });
}

for await (const line of createInterface({ input: process.stdin })) {
  const { port, peer } = JSON.parse(line) as { port: number; peer: string };
  await call(port, peer).catch((error: unknown) => say('failed', { error: told(error) }));
}
server.close();
await Promise.all([source.close(), tokens.close()]);
