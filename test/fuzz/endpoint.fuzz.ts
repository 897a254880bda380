/**
 * Any text as the address of the Workload API: refused, or exactly what was written, in the form that gRPC takes.
 */
import { workloadEndpoint } from '../../client/endpoint.ts';
import { expected } from './expected.ts';

export const name = 'endpoint';

export function corpus(): Uint8Array[] {
  return [
    'unix:///run/agent.sock',
    'unix:/run/agent.sock',
    'unix://host/run/agent.sock',
    'unix:///run/a%20b?x#y',
    'tcp://127.0.0.1:8000',
    'tcp://[::1]:8000',
    'tcp://[::ffff:1.2.3.4]:65535',
    'tcp://[1.2.3.4]:65535',
    'tcp://127.0.0.1:0080',
    'tcp://localhost:80/',
    'tcp://user@10.0.0.1:1',
    'http://127.0.0.1:80',
    'unix:\0/run',
  ].map((text) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('utf8');
  const address = expected(() => workloadEndpoint(text));
  if (address === undefined) return;
  if (address.startsWith('unix:')) {
    const path = address.slice('unix:'.length);
    if (!/^\/[^/]/.test(path) || /[?#\0]/.test(path)) throw new Error('a path that is none');
    if (text !== `unix:${path}` && text !== `unix://${path}`) throw new Error('another path than was written');
    return;
  }
  const port = Number(/:(\d+)$/.exec(address)?.[1]);
  if (!(port >= 1 && port <= 65_535)) throw new Error('a port that is none');
  // A port keeps its value, not its leading zeros.
  if (text.replace(/:0+(\d+)$/, ':$1') !== `tcp://${address}` || /[^0-9a-fA-F.:[\]]/.test(address)) throw new Error('another address than was written');
}
