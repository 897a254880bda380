/**
 * The stream of a MySQL connection on which TLS is over when the driver gets to say who it is. MySQL begins in the clear:
 * the server greets, the client asks for TLS, and only then comes the handshake; all that happens here, between a socket
 * and a driver that is told nothing of it. What is said on the stream is the driver's.
 */
import { connect as connectTcp, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import type { TlsClient } from '../runtime/tls.ts';
import { asRefusal } from '../runtime/tls.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { type TlsClientSettings, tlsClient, type X509TlsSource } from './tls.ts';

/** Where to, as mysql2 has it. */
export interface MysqlTarget {
  readonly host?: string | undefined;
  readonly port?: number | undefined;
}

const clientSsl = 0x800;
/** Client flags, longest packet, character set and filler: what a login starts with, and all that a request for TLS has. */
const sslRequestBytes = 32;
const headerBytes = 4;
/** Greetings and logins have some hundred bytes. */
const maxLoginBytes = 64 * 1024;

/** @throws invalid `tls.settings` */
export function mysqlStream(
  source: X509TlsSource,
  settings: TlsClientSettings,
): (connection: { readonly config: MysqlTarget }) => Duplex {
  const client = tlsClient(source, settings);
  return ({ config }) => new MysqlStream(client, config.host ?? 'localhost', config.port ?? 3306);
}

/**
 * Packets are counted, and the one that asks for TLS counts: until the login is over the driver's numbers are one behind,
 * and are set right in both directions. A command of the driver's begins anew with zero.
 */
class MysqlStream extends Duplex {
  readonly #client: TlsClient;
  readonly #host: string;
  readonly #tcp: Socket;
  #secured: TLSSocket | undefined;
  #greeted = false;
  #login = true;
  #received: Buffer = Buffer.alloc(0);
  #sent: Buffer = Buffer.alloc(0);

  constructor(client: TlsClient, host: string, port: number) {
    super({ allowHalfOpen: false });
    this.#client = client;
    this.#host = host;
    this.#tcp = connectTcp({ host, port, noDelay: true });
    this.#tcp.on('error', (cause) => {
      this.destroy(new SpiffeError('unavailable', 'source.connect', `cannot connect to ${host} port ${port}`, { cause }));
    });
    this.#tcp.on('data', this.#greeting);
    this.#tcp.on('close', () => this.destroy());
  }

  override _read(): void {
    (this.#secured ?? this.#tcp).resume();
  }

  override _write(chunk: Buffer, _encoding: string, tell: (error?: Error | null) => void): void {
    if (this.#secured !== undefined) {
      this.#secured.write(this.#login ? this.#outgoing(chunk) : chunk, tell);
      return;
    }
    this.#sent = Buffer.concat([this.#sent, chunk]);
    const login = packetIn(this.#sent);
    if (!this.#greeted || login === undefined) {
      tell(this.#sent.length > maxLoginBytes ? unexpected() : null);
      return;
    }
    this.#secure(login).then(() => tell(), (error: Error) => tell(error));
  }

  override _final(done: (error?: Error | null) => void): void {
    (this.#secured ?? this.#tcp).end(() => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#secured?.destroy();
    this.#tcp.destroy();
    done(error);
  }

  /** Passes on what the server says first, if it can do TLS; or that it will not have us, which is for the driver to tell. */
  readonly #greeting = (data: Buffer): void => {
    this.#received = Buffer.concat([this.#received, data]);
    const greeting = packetIn(this.#received);
    if (greeting === undefined) {
      if (this.#received.length > maxLoginBytes) this.destroy(unexpected());
      return;
    }
    // The server waits for us now. What came behind its greeting came before TLS, and could be anybody's.
    if (greeting.length !== this.#received.length) {
      this.destroy(unexpected());
      return;
    }
    this.#received = Buffer.alloc(0);
    const payload = greeting.subarray(headerBytes);
    if (payload[0] === 10 && (capabilitiesOf(payload) & clientSsl) === 0) {
      this.destroy(new SpiffeError('unavailable', 'mysql.no-tls', 'the server does not speak TLS'));
      return;
    }
    this.#greeted = true;
    this.push(greeting);
  };

  /** Asks for TLS in the driver's name, proves the server, and only then passes the login on. */
  async #secure(login: Buffer): Promise<void> {
    if (login.length < headerBytes + sslRequestBytes || login.length !== this.#sent.length) throw unexpected();
    const flagged = Buffer.from(login);
    flagged.writeUInt32LE((flagged.readUInt32LE(headerBytes) | clientSsl) >>> 0, headerBytes);
    const request = Buffer.from(flagged.subarray(0, headerBytes + sslRequestBytes));
    request.writeUIntLE(sslRequestBytes, 0, 3);
    this.#tcp.removeListener('data', this.#greeting);
    this.#tcp.write(request);
    const secured = await this.#client.handshake(this.#tcp, { serverName: this.#host });
    secured.on('error', (error) => this.destroy(asRefusal(error)));
    secured.on('data', (data: Buffer) => this.#incoming(data));
    secured.on('end', () => this.push(null));
    secured.on('close', () => this.destroy());
    this.#secured = secured;
    this.#sent = Buffer.alloc(0);
    secured.write(this.#outgoing(flagged));
  }

  #incoming(data: Buffer): void {
    if (!this.#login) {
      if (!this.push(data)) this.#secured?.pause();
      return;
    }
    this.#received = Buffer.concat([this.#received, data]);
    for (let packet = packetIn(this.#received); packet !== undefined; packet = packetIn(this.#received)) {
      this.#received = this.#received.subarray(packet.length);
      this.push(renumbered(packet, -1));
    }
  }

  /** The driver writes whole packets. */
  #outgoing(chunk: Buffer): Buffer {
    // The login is over: with the server's last word passed on, nothing of it can be waiting here.
    if (chunk[3] === 0) {
      this.#login = false;
      return chunk;
    }
    return renumbered(chunk, 1);
  }
}

/** The first whole packet, header included. */
function packetIn(bytes: Buffer): Buffer | undefined {
  if (bytes.length < headerBytes) return undefined;
  const length = headerBytes + bytes.readUIntLE(0, 3);
  return bytes.length < length ? undefined : bytes.subarray(0, length);
}

function renumbered(packet: Buffer, by: number): Buffer {
  const copy = Buffer.from(packet);
  copy[3] = ((copy[3] ?? 0) + by) & 0xff;
  return copy;
}

/** Of a greeting of protocol 10: version, its end, thread, eight bytes and a filler, then the lower half. */
function capabilitiesOf(payload: Buffer): number {
  const end = payload.indexOf(0, 1);
  const at = end + 1 + 4 + 8 + 1;
  return end < 0 || payload.length < at + 2 ? 0 : payload.readUInt16LE(at);
}

function unexpected(): SpiffeError {
  return new SpiffeError('unavailable', 'mysql.protocol', 'the server or the driver does not begin as MySQL does');
}
