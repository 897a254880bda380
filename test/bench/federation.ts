/**
 * What fetching our bundle from a server costs whoever federates with it, a handshake and the document each time; and how
 * many such questions the server answers on connections that are kept, beside its other work.
 */
import { readFile } from 'node:fs/promises';
import { Agent, request } from 'node:https';
import { systemClock } from '../../runtime/clock.ts';
import { fetchBundle } from '../../runtime/http-bundle.ts';
import { composeBundle, emptyBundle, readX509Authority } from '../../spiffe/bundle.ts';
import { parseTrustDomain, serverId } from '../../spiffe/id.ts';
import { parsePemCertificates } from '../../spiffe/pem.ts';
import { freePort } from '../help/site.ts';
import { trustDomain as name } from './estate.ts';
import { type Bench, distributionOf, rounded } from './figure.ts';
import { startServer } from './world.ts';

const warmUp = 50;
const fetches = 600;
const kept = 16;
const floodMs = 3_000;

export const bundleFetch: Bench = {
  name: 'bundle-fetch',
  within: 60,
  async run(report) {
    const port = await freePort();
    const endpoint = { address: '127.0.0.1', port };
    await using world = await startServer({ config: { federation: { endpoint } } });
    const trustDomain = parseTrustDomain(name);
    const x509Authorities = parsePemCertificates(String(await readFile(world.bundleFile))).map((der) => readX509Authority(der));
    const bundle = composeBundle({ ...emptyBundle(trustDomain), x509Authorities });
    const profile = { type: 'https_spiffe', endpointId: serverId(trustDomain), bundle: () => bundle } as const;
    const url = `https://127.0.0.1:${port}/`;

    const times: number[] = [];
    for (let round = -warmUp; round < fetches; round += 1) {
      const began = performance.now();
      await fetchBundle({ url, trustDomain, profile, clock: systemClock });
      if (round >= 0) times.push(performance.now() - began);
    }
    report({ figure: 'bundle-fetch', unit: 'ms', aim: 'p99 <= 20', distribution: distributionOf(times) });

    const { answered, failed, bytes } = await flood(url);
    const also = { failed, bytes, connections: kept };
    report({ figure: 'bundle-served', unit: 'per second', aim: '>= 2000', value: rounded((1000 * answered) / floodMs), also });
  },
};

/** Asks on a few connections as fast as answers come; who the server is was proved above. */
async function flood(url: string): Promise<{ readonly answered: number; readonly failed: number; readonly bytes: number }> {
  const agent = new Agent({ keepAlive: true, maxSockets: kept, rejectUnauthorized: false });
  const end = performance.now() + floodMs;
  let [answered, failed, bytes] = [0, 0, 0];
  const ask = (): Promise<void> =>
    new Promise((resolve) => {
      const outgoing = request(url, { agent }, (incoming) => {
        incoming.on('data', (piece: Buffer) => (bytes += piece.length));
        incoming.once('end', () => {
          if (incoming.statusCode === 200) answered += 1;
          else failed += 1;
          resolve();
        });
      });
      outgoing.once('error', () => {
        failed += 1;
        resolve();
      });
      outgoing.end();
    });
  await Promise.all(
    Array.from({ length: kept }, async () => {
      while (performance.now() < end) await ask();
    }),
  );
  agent.destroy();
  return { answered, failed, bytes };
}
