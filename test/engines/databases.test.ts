/**
 * MariaDB and Redis as Debian has them, with SVIDs of the test's authority, asked through `mysql2` and `ioredis` while both
 * ends take new certificates: nothing is refused that should not be, and clients without the right SVID are.
 */
import { X509Certificate } from 'node:crypto';
import { chown, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { TLSSocket } from 'node:tls';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Redis } from 'ioredis';
import mysql from 'mysql2/promise';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { authorizeId } from '../../client/authorize.ts';
import { mysqlTls, redisTls } from '../../client/drivers.ts';
import { parseSpiffeId } from '../../spiffe/id.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { type Account, account, withoutPrograms } from '../help/debian.ts';
import { runToEnd, type Running, startRunning } from '../help/running.ts';
import { freePort } from '../help/site.ts';
import { alpha, beta, home, identityOf, impostor, sourceOf } from '../help/tls-world.ts';

const host = '127.0.0.1';
const database = parseSpiffeId('spiffe://example.org/database');
const rounds = 6;

const serialOf = (svid: X509Svid): string => svid.serial.replace(/^0+/, '');
const pem = (chain: readonly Uint8Array[]): string => chain.map((der) => new X509Certificate(der).toString()).join('');

/** Files as a server takes them: certificate and key in one place each, the bundle beside them. */
async function install(directory: string, svid: X509Svid, owner: Account): Promise<void> {
  const files = { 'svid.pem': pem(svid.chain), 'key.pem': svid.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string, 'bundle.pem': pem([home.certificate]) };
  for (const [name, text] of Object.entries(files)) {
    await writeFile(path.join(directory, name), text, { mode: 0o600 });
    await chown(path.join(directory, name), owner.uid, owner.gid);
  }
}

async function place(owner: Account): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), 'steeple-database-'));
  await mkdir(path.join(directory, 'data'));
  await install(directory, home.svid(database), owner);
  for (const name of [directory, path.join(directory, 'data')]) await chown(name, owner.uid, owner.gid);
  return directory;
}

const mariadb = { server: '/usr/sbin/mariadbd', install: '/usr/bin/mariadb-install-db', client: '/usr/bin/mariadb' };
const withoutMariadb = withoutPrograms(Object.values(mariadb), ['mysql']);

describe.skipIf(withoutMariadb !== undefined)(`MariaDB${withoutMariadb === undefined ? '' : ` (${withoutMariadb})`}`, () => {
  let directory: string;
  let owner: Account;
  let port: number;
  let server: Running | undefined;
  const asRoot = async (statement: string): Promise<void> => {
    const { code, stderr } = await runToEnd([mariadb.client, '--no-defaults', '-S', path.join(directory, 'socket'), '-u', 'root', '-e', statement]);
    expect(code, stderr).toBe(0);
  };

  beforeAll(async () => {
    owner = account('mysql');
    directory = await place(owner);
    port = await freePort();
    const data = path.join(directory, 'data');
    const made = await runToEnd([mariadb.install, '--no-defaults', `--datadir=${data}`, '--auth-root-authentication-method=socket', '--skip-test-db', '--skip-name-resolve'], { ...owner, cwd: directory });
    expect(made.code, made.stderr).toBe(0);
    const tls = [`--ssl-cert=${directory}/svid.pem`, `--ssl-key=${directory}/key.pem`, `--ssl-ca=${directory}/bundle.pem`];
    server = startRunning(
      [mariadb.server, '--no-defaults', `--datadir=${data}`, `--socket=${directory}/socket`, `--port=${port}`, `--bind-address=${host}`, `--pid-file=${directory}/pid`, '--skip-name-resolve', '--innodb-flush-log-at-trx-commit=0', ...tls],
      { ...owner, cwd: directory },
    );
    await vi.waitFor(() => expect(server?.text()).toContain('ready for connections'), { timeout: 20_000 });
    await asRoot("create user orders@'127.0.0.1' identified by 'secret' require x509");
  });
  afterAll(async () => {
    await server?.end('SIGTERM');
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  });

  it('takes new certificates at both ends, under pools that are kept', async () => {
    const source = sourceOf(home.svid(alpha));
    const pool = mysql.createPool({ host, port, user: 'orders', password: 'secret', connectionLimit: 2, ...mysqlTls(source, { authorize: authorizeId(database) }) });
    try {
      const kept = await pool.getConnection();
      for (let round = 0; round < rounds; round += 1) {
        await install(directory, home.svid(database), owner);
        await asRoot('flush ssl');
        source.identity.set(identityOf(home.svid(alpha)));
        const fresh = await pool.getConnection();
        const [rows] = await fresh.query<mysql.RowDataPacket[]>("show status like 'Ssl_version'");
        expect(rows[0]?.['Value']).toBe('TLSv1.3');
        // More than fits into a packet of TLS, both ways.
        const [sums] = await fresh.query<mysql.RowDataPacket[]>('select repeat(?, 50000) as text', ['0123456789']);
        expect(sums[0]?.['text']).toHaveLength(500_000);
        fresh.destroy();
      }
      const [rows] = await kept.execute<mysql.RowDataPacket[]>('select ? + 1 as sum', [41]);
      expect(Number(rows[0]?.['sum'])).toBe(42);
      kept.release();
    } finally {
      await pool.end();
    }
  });

  it('is left when it is another, and refuses who shows nothing or a stranger’s SVID', async () => {
    const dial = async (svid: X509Svid | undefined, wanted = database): Promise<unknown> => {
      const connection = await mysql.createConnection({ host, port, user: 'orders', password: 'secret', ...mysqlTls(sourceOf(svid), { authorize: authorizeId(wanted) }) });
      connection.destroy();
      return 'in';
    };
    expect(await dial(home.svid(alpha))).toBe('in');
    await expect(dial(home.svid(alpha), beta)).rejects.toMatchObject({ reason: 'source.peer.refused' });
    await expect(dial(impostor.svid(alpha))).rejects.toThrow();
    await expect(dial(undefined)).rejects.toThrow(/Access denied/);
  });
});

const redis = '/usr/bin/redis-server';
const withoutRedis = withoutPrograms([redis], ['redis']);

describe.skipIf(withoutRedis !== undefined)(`Redis${withoutRedis === undefined ? '' : ` (${withoutRedis})`}`, () => {
  let directory: string;
  let owner: Account;
  let port: number;
  let server: Running | undefined;

  beforeAll(async () => {
    owner = account('redis');
    directory = await place(owner);
    port = await freePort();
    const tls = ['--tls-port', String(port), '--tls-cert-file', `${directory}/svid.pem`, '--tls-key-file', `${directory}/key.pem`, '--tls-ca-cert-file', `${directory}/bundle.pem`, '--tls-auth-clients', 'yes'];
    server = startRunning([redis, '--port', '0', '--bind', host, '--dir', path.join(directory, 'data'), '--save', '', ...tls], { ...owner, cwd: directory });
    await vi.waitFor(() => expect(server?.text()).toMatch(/ready to accept connections/i), { timeout: 20_000 });
  });
  afterAll(async () => {
    await server?.end('SIGTERM');
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  });

  it('takes new certificates at both ends, with connections that are kept and made anew', async () => {
    const source = sourceOf(home.svid(alpha));
    const kept = new Redis({ host, port, tls: redisTls(source, { authorize: authorizeId(database) }) });
    const again = kept.duplicate();
    try {
      await kept.set('round', '0');
      const seen = new Set<string>();
      for (let round = 0; round < rounds; round += 1) {
        const served = home.svid(database);
        await install(directory, served, owner);
        // The same name again makes it read the file again.
        await kept.config('SET', 'tls-cert-file', `${directory}/svid.pem`);
        source.identity.set(identityOf(home.svid(alpha)));
        again.disconnect(true);
        await again.incr('round');
        const { stream } = again as unknown as { readonly stream: TLSSocket };
        const serial = stream.getPeerX509Certificate()?.serialNumber.toLowerCase().replace(/^0+/, '');
        expect(serial).toBe(serialOf(served));
        seen.add(String(serial));
      }
      expect(seen.size).toBe(rounds);
      expect(await kept.get('round')).toBe(String(rounds));
    } finally {
      kept.disconnect();
      again.disconnect();
    }
  });

  it('is left when it is another, and refuses who shows nothing or a stranger’s SVID', async () => {
    const dial = async (svid: X509Svid | undefined, wanted = database): Promise<string> => {
      const connection = new Redis({ host, port, lazyConnect: true, retryStrategy: () => null, tls: redisTls(sourceOf(svid), { authorize: authorizeId(wanted) }) });
      let failure: (Error & { readonly reason?: string }) | undefined;
      connection.on('error', (error: Error) => (failure ??= error));
      try {
        await connection.connect();
        return await connection.ping();
      } catch {
        return failure?.reason ?? 'refused';
      } finally {
        connection.disconnect();
      }
    };
    expect(await dial(home.svid(alpha))).toBe('PONG');
    expect(await dial(home.svid(alpha), beta)).toBe('source.peer.refused');
    // Redis says so with an alert of TLS.
    expect(await dial(impostor.svid(alpha))).toMatch(/unknown ca|^refused$/);
    expect(await dial(undefined)).toMatch(/certificate required|^refused$/);
  });
});
