/**
 * TLS settings for the drivers of databases, caches and brokers: `pg`, `ioredis`, `kafkajs`, and `mysql2`, whose way is in
 * `mysql-stream.ts`. Each proves the server by its SPIFFE ID before a credential is sent, and takes the newest SVID with
 * every connection. The drivers are not imported; their pools are theirs.
 */
import type { Duplex } from 'node:stream';
import { mysqlStream, type MysqlTarget } from './mysql-stream.ts';
import { type NodeTlsClientOptions, type TlsClientSettings, tlsClientOptions, type X509TlsSource } from './tls.ts';

/**
 * For the `ssl` of `pg`'s `Client` and `Pool`. Not together with a connection string that has an `sslmode`: pg takes that
 * in place of `ssl`.
 * @throws invalid `tls.settings`
 * @example
 * const pool = new pg.Pool({ host: 'db.internal', user: 'orders', ssl: postgresTls(source, { authorize: authorizeId(database) }) });
 */
export function postgresTls(source: X509TlsSource, settings: TlsClientSettings): NodeTlsClientOptions {
  return tlsClientOptions(source, settings);
}

/**
 * For the `tls` of `ioredis`, of each node of a cluster and of sentinels.
 * @throws invalid `tls.settings`
 * @example
 * const redis = new Redis({ host: 'cache.internal', tls: redisTls(source, { authorize: authorizeId(cache) }) });
 */
export function redisTls(source: X509TlsSource, settings: TlsClientSettings): NodeTlsClientOptions {
  return tlsClientOptions(source, settings);
}

/**
 * For the `ssl` of `kafkajs`.
 * @throws invalid `tls.settings`
 * @example
 * const kafka = new Kafka({ brokers: ['broker.internal:9093'], ssl: kafkaTls(source, { authorize: authorizePath(trustDomain, '/kafka') }) });
 */
export function kafkaTls(source: X509TlsSource, settings: TlsClientSettings): NodeTlsClientOptions {
  return tlsClientOptions(source, settings);
}

/** What `mysql2` is to be given besides where to connect and as whom. Without `ssl`, which would be a second TLS. */
export interface MysqlOptions {
  readonly stream: (connection: { readonly config: MysqlTarget }) => Duplex;
  /** Never connected to. It is how mysql2 is told that the connection is secure, which passwords of MySQL 8 need. */
  readonly socketPath: string;
}

/**
 * For `mysql2`, against MySQL and MariaDB: `createConnection({ host, user, ...mysqlTls(…) })`, and pools alike. mysql2 leaves
 * no room for a check in its own TLS, so that it gets a stream which is secured already; it is told nothing of `ssl`.
 * @throws invalid `tls.settings`
 * @example
 * const pool = mysql.createPool({ host: 'db.internal', user: 'orders', ...mysqlTls(source, { authorize: authorizeId(database) }) });
 */
export function mysqlTls(source: X509TlsSource, settings: TlsClientSettings): MysqlOptions {
  return { stream: mysqlStream(source, settings), socketPath: 'secured by SPIFFE' };
}
