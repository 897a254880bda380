import { once } from 'node:events';
import { X509Certificate } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { Redis } from 'ioredis';
import { Kafka, logLevel } from 'kafkajs';
import mysql from 'mysql2/promise';
import pg from 'pg';
import { afterEach, describe, expect, it } from 'vitest';
import { authorizeAny, authorizeId } from '../../client/authorize.ts';
import { kafkaTls, mysqlTls, postgresTls, redisTls } from '../../client/drivers.ts';
import type { TlsClientSettings } from '../../client/tls.ts';
import { systemClock } from '../../runtime/clock.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { abroad, alpha, beta, federated, home, identityOf, listen, sourceOf, type TestSource } from '../help/tls-world.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const host = '127.0.0.1';
const authorize = authorizeAny();
const client = (): TestSource => sourceOf(home.svid(alpha), federated);

/** A greeting of protocol 10 with these capabilities, as MySQL 8 gives it. */
function greeting(capabilities: number): Buffer {
  const number = (value: number, bytes: number): Buffer => {
    const out = Buffer.alloc(bytes);
    out.writeUIntLE(value, 0, bytes);
    return out;
  };
  const text = (value: string): Buffer => Buffer.from(`${value}\0`);
  const payload = Buffer.concat([
    number(10, 1), text('8.0.0'), number(1, 4), Buffer.from('12345678'), number(0, 1), number(capabilities & 0xffff, 2), number(45, 1),
    number(2, 2), number(capabilities >>> 16, 2), number(21, 1), Buffer.alloc(10), text('123456789012'), text('mysql_native_password'),
  ]);
  return Buffer.concat([number(payload.length, 3), number(0, 1), payload]);
}

const mysqlCapabilities = 0x0008_a201;
const ok = (sequence: number): Buffer => Buffer.from([7, 0, 0, sequence, 0, 0, 0, 2, 0, 0, 0]);

/** What a server says and hears in the clear before TLS. */
const beginnings = {
  postgres: async (socket: Socket): Promise<void> => {
    await once(socket, 'data');
    socket.write('S');
  },
  mysql: async (socket: Socket): Promise<void> => {
    socket.write(greeting(mysqlCapabilities | 0x800));
    let request: Buffer | null = null;
    // What follows at once is TLS, and stays for it.
    while ((request = socket.read(36) as Buffer | null) === null) await once(socket, 'readable');
    // Four bytes of header and thirty-two of a request, with the flag for TLS and not a byte of a login.
    if ((request.readUInt32LE(4) & 0x800) === 0 || request[3] !== 1) socket.destroy();
  },
  redis: () => Promise.resolve(),
  kafka: () => Promise.resolve(),
} as const;
type Kind = keyof typeof beginnings;

interface StandIn {
  readonly port: number;
  /** What it was told over TLS. */
  readonly heard: Buffer[];
  readonly callers: (string | undefined)[];
}

async function standIn(kind: Kind, own: () => X509Svid, answer: (data: Buffer, socket: TLSSocket) => void = () => undefined): Promise<StandIn> {
  const heard: Buffer[] = [];
  const callers: (string | undefined)[] = [];
  const secure = async (socket: Socket): Promise<void> => {
    await beginnings[kind](socket);
    const svid = own();
    const secured = new TLSSocket(socket, {
      isServer: true,
      requestCert: true,
      rejectUnauthorized: false,
      cert: svid.chain.map((der) => new X509Certificate(der).toString()).join(''),
      key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
    });
    secured.on('error', () => undefined);
    secured.on('data', (data: Buffer) => {
      if (heard.length === 0 || callers.length === 0) callers.push(secured.getPeerX509Certificate()?.subjectAltName);
      heard.push(data);
      answer(data, secured);
    });
  };
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    ends.push(() => socket.destroy());
    secure(socket).catch(() => socket.destroy());
  });
  ends.push(() => server.close());
  return { port: await listen(server), heard, callers };
}

/** Connects as programs do, with a password to tell. */
const connects: Readonly<Record<Kind, (port: number, source: TestSource, settings: TlsClientSettings) => Promise<unknown>>> = {
  postgres: async (port, source, settings) => {
    const connection = new pg.Client({ host, port, user: 'orders', password: 'secret', ssl: postgresTls(source, settings) });
    connection.on('error', () => undefined);
    ends.push(() => connection.end());
    await connection.connect();
  },
  mysql: async (port, source, settings) => {
    const connection = await mysql.createConnection({ host, port, user: 'orders', password: 'secret', ...mysqlTls(source, settings) });
    ends.push(() => connection.destroy());
  },
  redis: async (port, source, settings) => {
    const connection = new Redis({ host, port, password: 'secret', lazyConnect: true, retryStrategy: () => null, tls: redisTls(source, settings) });
    let failure: Error | undefined;
    connection.on('error', (error) => (failure = error));
    ends.push(() => connection.disconnect());
    await connection.connect().catch((error: Error) => {
      throw failure ?? error;
    });
  },
  kafka: async (port, source, settings) => {
    const sasl = { mechanism: 'plain', username: 'orders', password: 'secret' } as const;
    const kafka = new Kafka({ brokers: [`${host}:${port}`], ssl: kafkaTls(source, settings), sasl, logLevel: logLevel.NOTHING, retry: { retries: 0 }, connectionTimeout: 2_000 });
    const admin = kafka.admin();
    ends.push(() => admin.disconnect());
    await admin.connect();
  },
};
const kinds = Object.keys(beginnings) as Kind[];

const reasonOf = (error: unknown): string => {
  for (let at = error; at instanceof Error; at = at.cause ?? (at as { originalError?: unknown }).originalError) {
    const { reason, code } = at as { reason?: string; code?: string };
    if (reason !== undefined) return reason;
    if (code?.startsWith('CERT_') === true || code?.startsWith('UNABLE_') === true) return code;
    if (/not authorized here/.test(at.message)) return 'source.peer.refused';
    if (/not signed by an authority of its trust domain/.test(at.message)) return 'x509.path.unknown-authority';
  }
  return String(error);
};

describe.each(kinds)('%s', (kind) => {
  it.each<readonly [string, () => X509Svid, TlsClientSettings, string]>([
    ['another identity', () => home.svid(alpha), { authorize: authorizeId(beta) }, 'source.peer.refused'],
    ['T-03: an authority of another trust domain that is trusted too', () => abroad.svid(beta), { authorize }, 'x509.path.unknown-authority'],
  ])('T-07: a server of %s hears no word of a login', async (_what, forge, settings, reason) => {
    const { port, heard } = await standIn(kind, forge);
    const failure = await connects[kind](port, client(), settings).then(() => 'connected', reasonOf);
    expect(failure).toBe(reason);
    await systemClock.sleep(20);
    expect(heard).toEqual([]);
  });

  it('shows the newest SVID, with settings that were made before', async () => {
    const source = client();
    const seen: (string | undefined)[] = [];
    const { port } = await standIn(kind, () => home.svid(beta), (_data, socket) => {
      seen.push(socket.getPeerX509Certificate()?.serialNumber.toLowerCase().replace(/^0+/, ''));
      socket.destroy();
    });
    const settings: TlsClientSettings = { authorize: authorizeId(beta) };
    const attempt = repeatable(kind, port, source, settings);
    const serials: string[] = [];
    for (let round = 0; round < 3; round += 1) {
      const svid = home.svid(alpha);
      serials.push(svid.serial.replace(/^0+/, ''));
      source.identity.set(identityOf(svid, federated));
      await attempt().catch(() => undefined);
    }
    expect([...new Set(seen)]).toEqual(serials);
  });
});

/** Settings are made once and used for every connection, as pools do. */
function repeatable(kind: Kind, port: number, source: TestSource, settings: TlsClientSettings): () => Promise<unknown> {
  if (kind === 'mysql') {
    const options = { host, port, user: 'orders', password: 'secret', ...mysqlTls(source, settings) };
    return () => mysql.createConnection(options);
  }
  if (kind === 'postgres') {
    const ssl = postgresTls(source, settings);
    return () => new pg.Client({ host, port, user: 'orders', password: 'secret', ssl }).connect();
  }
  if (kind === 'redis') {
    const connection = new Redis({ host, port, lazyConnect: true, retryStrategy: () => null, maxRetriesPerRequest: 0, tls: redisTls(source, settings) });
    connection.on('error', () => undefined);
    ends.push(() => connection.disconnect());
    return () => connection.connect();
  }
  const kafka = new Kafka({ brokers: [`${host}:${port}`], ssl: kafkaTls(source, settings), logLevel: logLevel.NOTHING, retry: { retries: 0 }, connectionTimeout: 2_000, requestTimeout: 1_000 });
  return () => {
    const admin = kafka.admin();
    ends.push(() => admin.disconnect());
    return admin.connect();
  };
}

it('kafkajs agrees on versions with a broker that it proved', async () => {
  const { port, callers } = await standIn('kafka', () => home.svid(beta), (data, socket) => {
    // ApiVersions, whose answer has the request's number, no error and two calls that are understood.
    const versions = [[18, 0, 2], [3, 0, 1]].map((call) => Buffer.from(call.flatMap((value) => [value >> 8, value & 0xff])));
    const body = Buffer.concat([data.subarray(8, 12), Buffer.from([0, 0, 0, 0, 0, versions.length]), ...versions, Buffer.alloc(4)]);
    socket.write(Buffer.concat([Buffer.from([0, 0, 0, body.length]), body]));
  });
  const kafka = new Kafka({ brokers: [`${host}:${port}`], ssl: kafkaTls(client(), { authorize: authorizeId(beta) }), logLevel: logLevel.NOTHING, retry: { retries: 0 } });
  const admin = kafka.admin();
  ends.push(() => admin.disconnect());
  await admin.connect();
  expect(callers).toEqual([`URI:${alpha}`]);
});

describe('mysql', () => {
  const dial = (port: number): Promise<unknown> => connects.mysql(port, client(), { authorize });

  it('logs in where packets are counted, and goes on from zero', async () => {
    const { port, heard } = await standIn('mysql', () => home.svid(beta), (data, socket) => {
      // In two pieces: what comes over a network comes as it likes.
      const answer = ok((data[3] ?? 0) + 1);
      socket.write(answer.subarray(0, 5));
      setImmediate(() => socket.write(answer.subarray(5)));
    });
    const connection = await mysql.createConnection({ host, port, user: 'orders', password: 'secret', ...mysqlTls(client(), { authorize }) });
    await connection.ping();
    await connection.ping();
    expect(heard.map((data) => data[3])).toEqual([2, 0, 0]);
    expect(heard[0]?.includes('orders')).toBe(true);
    expect((heard[0]?.readUInt32LE(4) ?? 0) & 0x800).toBe(0x800);
    await connection.end();
  });

  it.each<readonly [string, Buffer, string]>([
    ['does not speak TLS', greeting(mysqlCapabilities), 'mysql.no-tls'],
    ['says more than its greeting in the clear', Buffer.concat([greeting(mysqlCapabilities | 0x800), ok(1)]), 'mysql.protocol'],
    ['greets without end', Buffer.alloc(70_000, 0xff), 'mysql.protocol'],
  ])('leaves a server that %s', async (_what, words, reason) => {
    const heard: Buffer[] = [];
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.on('data', (data) => heard.push(data));
      socket.write(words);
    });
    ends.push(() => server.close());
    await expect(dial(await listen(server))).rejects.toMatchObject({ reason });
    expect(heard).toEqual([]);
  });

  it('passes on what a server says that will have nobody', async () => {
    const refusal = Buffer.concat([Buffer.from([0, 0, 0, 0, 0xff, 0x10, 0x04]), Buffer.from('Too many connections')]);
    refusal[0] = refusal.length - 4;
    const server = createServer((socket) => void socket.end(refusal));
    ends.push(() => server.close());
    await expect(dial(await listen(server))).rejects.toMatchObject({ message: expect.stringContaining('Too many connections') as string });
  });

  it('says that nobody listens', async () => {
    const server = createServer();
    const port = await listen(server);
    server.close();
    await expect(dial(port)).rejects.toMatchObject({ reason: 'source.connect' });
  });
});
