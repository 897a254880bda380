/**
 * Workloads that know one another by WIT-SVIDs: `node wit-workload.ts ACT …`. They print one JSON object a line, errors as
 * `refused` with kind and reason, and end when their input does.
 */
import { once } from 'node:events';
import { request as httpsRequest } from 'node:https';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  authorizeId,
  createHttpsServer,
  createWitVerifier,
  httpsAgent,
  parseSpiffeId,
  SpiffeError,
  witRefusal,
  WitSource,
  WorkloadApi,
  X509Source,
} from '../../client/index.ts';

const [act = '', ...args] = process.argv.slice(2);
const over = new AbortController();
process.stdin.resume();
process.stdin.once('end', () => over.abort());

function say(event: string, more: object = {}): void {
  process.stdout.write(`${JSON.stringify({ event, at: Date.now(), ...more })}\n`);
}

function sayRefused(error: unknown): void {
  const { kind, reason } = error instanceof SpiffeError ? error : { kind: 'internal', reason: String(error) };
  say('refused', { kind, reason });
}

function keyIdOf(token: string): string {
  return (JSON.parse(Buffer.from(token.split('.')[0] ?? '', 'base64url').toString()) as { kid: string }).kid;
}

interface Answer {
  readonly status: number;
  readonly body: string;
}

const acts: Readonly<Record<string, () => Promise<void>>> = {
  /** One call of each WIT method. */
  async fetch() {
    using api = new WorkloadApi();
    await api.fetchWitBundles({ deadlineMs: 10_000 }).then((bundles) => say('bundles', { keys: [...bundles.values()].flat().length }), sayRefused);
    await api.fetchWitSvids({}, { deadlineMs: 10_000 }).then((svids) => say('svids', { ids: svids.map(({ spiffeId }) => spiffeId) }), sayRefused);
  },

  /** `serve CALLER`: tells each caller who it is, if it is the one. Clients show no certificate. */
  async serve() {
    await using identity = await X509Source.open({ signal: over.signal });
    await using wits = await WitSource.open({ signal: over.signal });
    const server = createHttpsServer(identity, { clients: 'none' }, (request, response) => {
      try {
        const { spiffeId } = verifier.verify(request);
        response.end(spiffeId);
      } catch (error) {
        sayRefused(error);
        const { status, headers } = witRefusal(error);
        response.writeHead(status, headers).end();
      }
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const verifier = createWitVerifier({ bundles: wits, origin: `https://localhost:${port}`, authorize: authorizeId(parseSpiffeId(args[0] ?? '')) });
    say('listening', { port });
    await once(over.signal, 'abort').catch(() => undefined);
    server.closeAllConnections();
    server.close();
  },

  /** `call PORT SERVER`: a request every tenth of a second until the input ends; then says how they went. */
  async call() {
    const [port = '', peer = ''] = args;
    await using identity = await X509Source.open({ signal: over.signal });
    await using wits = await WitSource.open({ signal: over.signal });
    const agent = httpsAgent(identity, { authorize: authorizeId(parseSpiffeId(peer)) });
    const ask = async (path: string, headers: object): Promise<Answer> => {
      const sent = httpsRequest({ agent, host: 'localhost', port: Number(port), path, headers: { ...headers } });
      sent.end();
      const [response] = (await once(sent, 'response')) as [AsyncIterable<Buffer> & { statusCode: number }];
      const parts: Buffer[] = [];
      for await (const part of response) parts.push(part);
      return { status: response.statusCode, body: Buffer.concat(parts).toString() };
    };
    const url = `https://localhost:${port}/orders`;
    const tokens = new Set<string>();
    const keyIds = new Set<string>();
    const keys = new Set<string>();
    let [answered, failed] = [0, 0];
    say('ready');
    while (!over.signal.aborted) {
      const { svid } = wits;
      const { status, body } = await ask('/orders?limit=1', wits.headers(url));
      if (status === 200 && body === svid.spiffeId) answered += 1;
      else failed += 1;
      if (!tokens.has(svid.token)) {
        tokens.add(svid.token);
        keyIds.add(keyIdOf(svid.token));
        keys.add(String(svid.privateKey.export({ format: 'jwk' }).x));
        say('presented', { tokens: tokens.size, keyIds: keyIds.size, keys: keys.size, answered, failed });
      }
      await sleep(100, undefined, { signal: over.signal }).catch(() => undefined);
    }
    const spent = wits.headers(url);
    const statuses = {
      first: (await ask('/orders', spent)).status,
      again: (await ask('/orders', spent)).status,
      elsewhere: (await ask('/admin', wits.headers(url))).status,
      bearer: (await ask('/orders', { authorization: `Bearer ${wits.svid.token}` })).status,
      alone: (await ask('/orders', { 'workload-identity-token': wits.svid.token })).status,
    };
    say('called', { answered, failed, tokens: tokens.size, keyIds: keyIds.size, keys: keys.size, statuses });
    agent.destroy();
  },
};

await (acts[act]?.() ?? Promise.reject(new Error(`no act ${act}`))).catch((error: unknown) => {
  if (!over.signal.aborted) sayRefused(error);
});
process.stdin.unref();
