/**
 * Many proxies at once, each on a connection of its own with a stream for its certificate and one for what it trusts, as
 * Envoy has them. Usage: `node sds-proxies.ts SOCKET COUNT ROTATIONS`; prints when all are there, and when each rotation
 * reached them. Bare HTTP/2, so that the load costs little.
 */
import { connect as connectSocket } from 'node:net';
import { connect, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import process from 'node:process';
import { loadServices } from '../../proto/load.ts';

const name = 'envoy.service.secret.v3.SecretDiscoveryService';
const { StreamSecrets: method } = loadServices(name)[name];
const secretType = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret';
const [socket = '', count = '1000', rotations = '3'] = process.argv.slice(2);
/** Connecting at once. */
const width = 20;

const arrivals = new Map<string, number[]>();
let failures = 0;

function framed(message: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

function request(names: readonly string[], version = '', nonce = ''): Buffer {
  return framed(method.requestSerialize({ resource_names: [...names], type_url: secretType, version_info: version, response_nonce: nonce, node: { id: 'bench', user_agent_name: 'envoy' } }));
}

/** Resolves with the first response. */
function subscribe(session: ClientHttp2Session, names: readonly string[], onVersion: (version: string) => void): Promise<void> {
  const stream: ClientHttp2Stream = session.request(
    { ':method': 'POST', ':path': method.path, 'content-type': 'application/grpc', te: 'trailers' },
    { endStream: false },
  );
  stream.write(request(names));
  return new Promise((resolve, reject) => {
    let rest: Buffer = Buffer.alloc(0);
    stream.on('data', (more: Buffer) => {
      rest = rest.length === 0 ? more : Buffer.concat([rest, more]);
      while (rest.length >= 5 && rest.length >= 5 + rest.readUInt32BE(1)) {
        const end = 5 + rest.readUInt32BE(1);
        const response = method.responseDeserialize(rest.subarray(5, end));
        rest = rest.subarray(end);
        onVersion(response.version_info);
        stream.write(request(names, response.version_info, response.nonce));
        resolve();
      }
    });
    stream.once('close', () => {
      failures += 1;
      reject(new Error('a stream ended'));
    });
  });
}

async function proxy(): Promise<void> {
  const session = connect('http://localhost', { createConnection: () => connectSocket(socket) });
  session.on('error', () => undefined);
  const certificate = subscribe(session, ['default'], (version) => {
    const times = arrivals.get(version);
    if (times === undefined) arrivals.set(version, [Date.now()]);
    else times.push(Date.now());
  });
  await Promise.all([certificate, subscribe(session, ['ROOTCA'], () => undefined)]);
}

const say = (event: string, more: object): void => void process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);

const began = performance.now();
let left = Number(count);
await Promise.all(
  Array.from({ length: width }, async () => {
    while (left > 0) {
      left -= 1;
      await proxy();
    }
  }),
);
say('open', { seconds: (performance.now() - began) / 1_000, failures });
const known = new Set(arrivals.keys());
for (let round = 1; round <= Number(rotations); ) {
  await new Promise((resolve) => setTimeout(resolve, 20));
  for (const [version, times] of arrivals) {
    if (known.has(version) || times.length < Number(count)) continue;
    known.add(version);
    say('round', { round, times, failures });
    round += 1;
  }
  if (failures > 0) break;
}
say('done', { failures });
process.exit(failures === 0 ? 0 : 1);
