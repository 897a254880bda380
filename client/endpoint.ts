/**
 * Where the Workload API is: an argument, else SPIFFE_ENDPOINT_SOCKET, in the two forms the standard allows
 * [Workload Endpoint 4]. Connecting is left to `workload-api.ts`.
 */
import { isIP } from 'node:net';
import { SpiffeError } from '../spiffe/errors.ts';

/**
 * The address in the form that gRPC takes.
 * @param address such as `unix:///run/agent.sock` or `tcp://127.0.0.1:8000`; the environment's when absent
 * @throws invalid `endpoint.missing|scheme|unix|tcp`
 */
export function workloadEndpoint(address: string | undefined = process.env['SPIFFE_ENDPOINT_SOCKET']): string {
  if (address === undefined || address === '') {
    throw new SpiffeError('invalid', 'endpoint.missing', 'no Workload API address: set SPIFFE_ENDPOINT_SOCKET, or give one');
  }
  // The raw text is checked: a URL parser would resolve, decode and lower-case what has to be refused.
  if (address.startsWith('unix:')) return unixEndpoint(address.slice('unix:'.length));
  if (address.startsWith('tcp://')) return tcpEndpoint(address.slice('tcp://'.length));
  throw new SpiffeError('invalid', 'endpoint.scheme', 'Workload API address must be a unix or tcp URI');
}

function unixEndpoint(rest: string): string {
  const path = rest.startsWith('//') ? rest.slice(2) : rest;
  // With `//` an authority would come before the path, and it has to be empty.
  if (!path.startsWith('/') || path.startsWith('//') || path.length < 2 || /[?#\0]/.test(path)) {
    throw new SpiffeError('invalid', 'endpoint.unix', 'a unix address is an absolute path and nothing else, as in unix:///run/agent.sock');
  }
  return `unix:${path}`;
}

function tcpEndpoint(rest: string): string {
  const parts = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(rest);
  const [, bracketed, bare, digits] = parts ?? [];
  const host = bracketed ?? bare ?? '';
  const port = Number(digits ?? 0);
  if (isIP(host) !== (bracketed === undefined ? 4 : 6) || port < 1 || port > 65_535) {
    throw new SpiffeError('invalid', 'endpoint.tcp', 'a tcp address is an IP address with a port and nothing else, as in tcp://127.0.0.1:8000');
  }
  return bracketed === undefined ? `${host}:${port}` : `[${host}]:${port}`;
}
