/**
 * SVIDs for `fetch`: a connector and a dispatcher for the `undici` that the program imports, and Node's own `fetch` bound
 * to them. Nothing of undici is imported here: its versions do not take each other's parts.
 */
import { connect as connectTcp, type Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { TlsClient, TlsIdentity } from '../runtime/tls.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { type TlsClientSettings, tlsClient, type X509TlsSource } from './tls.ts';

/** Where undici wants to go. */
export interface UndiciTarget {
  readonly hostname: string;
  readonly protocol: string;
  readonly port: string;
  readonly servername?: string | null;
  readonly localAddress?: string | null;
  /** A tunnel through a proxy. */
  readonly httpSocket?: Socket;
}

/** What undici's `connect` option takes. */
export type UndiciConnector = (target: UndiciTarget, tell: (...result: [Error, null] | [null, TLSSocket]) => void) => void;

/** The part of a dispatcher that is needed of `undici.Agent`. */
interface Dispatching {
  dispatch(...parameters: never[]): boolean;
  close(): Promise<void>;
  destroy(): Promise<void>;
}

/**
 * Connects for undici, by `https:` alone: `http:` is refused, since nothing would be proved on it. Connections are handed
 * over once their server was; which are kept is undici's, and `fetchDispatcher` sees that none outlives its identity.
 * @throws invalid `tls.settings`
 * @example
 * const pool = new Pool('https://orders.internal', { connect: undiciConnector(source, { authorize: authorizeId(orders) }) });
 */
export function undiciConnector(source: X509TlsSource, settings: TlsClientSettings): UndiciConnector {
  const client = tlsClient(source, settings);
  return (target, tell) => {
    connect(client, target).then(
      (socket) => tell(null, socket),
      (error: Error) => tell(error, null),
    );
  };
}

/**
 * A dispatcher for `undici.fetch` and undici's other calls. Once the SVID or a bundle changes, connections finish what
 * runs on them and are not used again. To be closed.
 * @param Agent undici's class, of the undici that will use the dispatcher
 * @param options of `Agent`, but for `connect`
 * @throws invalid `tls.settings`
 * @example
 * const dispatcher = fetchDispatcher(Agent, source, { authorize: authorizeId(orders) });
 * const response = await fetch('https://orders.internal/', { dispatcher });
 */
export function fetchDispatcher<Options extends object, D extends Dispatching>(
  Agent: new (options: Options) => D,
  source: X509TlsSource,
  settings: TlsClientSettings,
  options?: Omit<Options, 'connect'>,
): D {
  const connect = undiciConnector(source, settings);
  let ended = false;
  let current: { readonly for: TlsIdentity; readonly agent: D } | undefined;
  const retired = new Set<D>();
  const newest = (): D => {
    const { value } = source.identity;
    if (current !== undefined && (ended || current.for === value)) return current.agent;
    const old = current?.agent;
    current = { for: value, agent: new Agent({ ...options, connect } as Options & { connect: UndiciConnector }) };
    if (old !== undefined) {
      retired.add(old);
      // Ends with its last request; one that fails has been told of that.
      old.close().then(() => retired.delete(old), () => retired.delete(old));
    }
    return current.agent;
  };
  const end = async (how: 'close' | 'destroy'): Promise<void> => {
    const all = [newest(), ...retired];
    ended = true;
    await Promise.all(all.map((agent) => agent[how]()));
  };
  // What undici takes for an agent: all its other methods are made of these three.
  return Object.create(Agent.prototype as object, {
    dispatch: { value: (...parameters: never[]) => newest().dispatch(...parameters) },
    close: { value: () => end('close') },
    destroy: { value: () => end('destroy') },
  }) as D;
}

/**
 * Node's own `fetch`, for servers that prove a SPIFFE ID. It stands on the undici inside of Node, which Node does not name:
 * where a program depends on undici anyway, `fetchDispatcher` is the sure way.
 * @throws invalid `tls.settings`; unsupported `fetch.agent` when this Node does not show its agent
 * @example
 * const fetch = spiffeFetch(source, { authorize: authorizeId(orders) });
 * const response = await fetch('https://orders.internal/');
 */
export function spiffeFetch(source: X509TlsSource, settings: TlsClientSettings): typeof fetch {
  const dispatcher = fetchDispatcher(nodesAgent(), source, settings);
  return (input, init) => fetch(input, { ...init, dispatcher } as RequestInit);
}

function nodesAgent(): new (options: object) => Dispatching {
  // Loads the undici inside, which then leaves its agent where all copies of undici look for one.
  void new Response();
  const { [Symbol.for('undici.globalDispatcher.1')]: agent } = globalThis as { readonly [key: symbol]: Dispatching | undefined };
  // A program may have put something else there, which would not make connections of ours.
  if (agent?.constructor.name !== 'Agent') {
    throw new SpiffeError('unsupported', 'fetch.agent', 'the agent of this fetch cannot be told: use fetchDispatcher with undici');
  }
  return agent.constructor as new (options: object) => Dispatching;
}

async function connect(client: TlsClient, target: UndiciTarget): Promise<TLSSocket> {
  if (target.protocol !== 'https:') {
    throw new SpiffeError('invalid', 'tls.url', 'a server is proved over https alone');
  }
  const host = target.hostname.replace(/^\[(.*)\]$/, '$1');
  const socket = target.httpSocket ?? (await reach(host, Number(target.port === '' ? 443 : target.port), target.localAddress));
  return client.handshake(socket, { serverName: target.servername ?? host });
}

function reach(host: string, port: number, localAddress: string | null | undefined): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ host, port, noDelay: true, ...(typeof localAddress === 'string' && { localAddress }) });
    socket.once('error', (cause) => {
      reject(new SpiffeError('unavailable', 'source.connect', `cannot connect to ${host} port ${port}`, { cause }));
    });
    socket.once('connect', () => resolve(socket));
  });
}
