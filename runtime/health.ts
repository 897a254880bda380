/**
 * Named conditions that hold readiness back, and the pages that tell orchestrators: live, ready, metrics. The gRPC answer
 * from the same conditions is made elsewhere; when a condition is met is for its owner to say.
 */
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { SpiffeError } from '../spiffe/errors.ts';
import { untilAborted } from './abort.ts';
import type { Metrics } from './metrics.ts';
import { createWatch } from './watch.ts';
import type { Watch } from './watch.ts';

/** A condition that is not met, and why, in a few words that hold no ids and no secrets. */
export interface Unmet {
  readonly name: string;
  readonly why: string;
}

/** Ready when nothing is unmet. */
export interface HealthState {
  readonly ready: boolean;
  readonly unmet: readonly Unmet[];
}

/** What the owner of a condition holds. */
export interface Condition {
  meet(): void;
  /** Holds readiness back until `meet`. */
  hold(why: string): void;
}

export interface Health {
  /** A new condition, unmet from the start. @throws internal `health.exists` */
  condition(name: string, why: string): Condition;
  readonly state: Watch<HealthState>;
}

export function createHealth(): Health {
  const conditions = new Map<string, string | undefined>();
  const state = createWatch<HealthState>({ ready: true, unmet: [] });

  const change = (name: string, why: string | undefined): void => {
    if (conditions.has(name) && conditions.get(name) === why) return;
    conditions.set(name, why);
    const unmet = [...conditions].flatMap(([unmetName, reason]) => (reason === undefined ? [] : [{ name: unmetName, why: reason }]));
    state.set({ ready: unmet.length === 0, unmet });
  };

  return {
    state,
    condition(name, why) {
      if (conditions.has(name)) throw new SpiffeError('internal', 'health.exists', `condition ${name} exists already`);
      change(name, why);
      return { meet: () => change(name, undefined), hold: (reason) => change(name, reason) };
    },
  };
}

export interface HealthPagesOptions {
  readonly health: Health;
  readonly metrics: Metrics;
  readonly host: string;
  /** 0 takes any free one. */
  readonly port: number;
}

export interface HealthPages {
  readonly port: number;
  /** Serves until the signal aborts. */
  serve(signal: AbortSignal): Promise<void>;
}

/**
 * Opens the pages `/live`, `/ready` and `/metrics`, which hold no identities and need no credential.
 * @throws unavailable `health.listen`
 */
export async function openHealthPages(options: HealthPagesOptions): Promise<HealthPages> {
  const server = createServer(
    // Small and quick or not at all: nobody who scrapes sends more.
    { maxHeaderSize: 8_192, requestTimeout: 5_000, headersTimeout: 5_000, keepAliveTimeout: 5_000, connectionsCheckingInterval: 1_000 },
    (request, response) => answer(request, response, options),
  );
  server.maxConnections = 64;
  await listen(server, options);
  return {
    port: (server.address() as AddressInfo).port,
    async serve(signal) {
      try {
        await untilAborted(new Promise<never>(() => undefined), signal);
      } catch {
        const closed = new Promise((resolve) => server.close(resolve));
        server.closeAllConnections();
        await closed;
      }
    },
  };
}

function listen(server: Server, options: HealthPagesOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      const where = `${options.host}:${options.port}`;
      reject(new SpiffeError('unavailable', 'health.listen', `cannot listen on ${where} for the health pages`, { cause }));
    });
    server.listen(options.port, options.host, resolve);
  });
}

function answer(request: IncomingMessage, response: ServerResponse, options: HealthPagesOptions): void {
  const send = (status: number, type: string, body: string): void => {
    response.writeHead(status, {
      'content-type': type,
      'content-length': Buffer.byteLength(body),
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  };
  const json = (status: number, value: unknown): void => send(status, 'application/json', `${JSON.stringify(value)}\n`);

  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    json(405, { error: 'method not allowed' });
    return;
  }
  const [path] = (request.url ?? '').split('?');
  switch (path) {
    case '/live':
      json(200, { live: true });
      return;
    case '/ready': {
      const state = options.health.state.value;
      json(state.ready ? 200 : 503, state);
      return;
    }
    case '/metrics':
      send(200, 'text/plain; version=0.0.4; charset=utf-8', options.metrics.text());
      return;
    default:
      json(404, { error: 'no such page' });
  }
}
