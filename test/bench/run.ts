/**
 * Takes figures and prints each as one line of JSON on standard output. Usage: `npm run bench -- [NAME …]`; without names
 * all are taken, one after the other. Aims that are missed do not fail a run: machines differ.
 */
import process from 'node:process';
import { attestCri, attestDocker, attestKernel, attestPods, attestSystemd } from './attestation.ts';
import { jwtValidate } from './client.ts';
import { handshakes } from './client-tls.ts';
import { deliveryBench } from './delivery.ts';
import { bundleFetch } from './federation.ts';
import { lineOf, loadAverage, processorTimes, stealPercent, type Bench } from './figure.ts';
import { attesting, idleAgents } from './fleet.ts';
import { issueBench } from './issue.ts';
import { microBench } from './parts.ts';
import { sdsPush } from './sds.ts';
import { hashing, starting } from './starting.ts';
import { firstMessage, flood, openStreams } from './workload.ts';

const benches: readonly Bench[] = [
  ...['signing', 'proving', 'matching', 'fan-out', 'recording'].map((part) => microBench(part)),
  issueBench({ name: 'issue-lean', mode: 'issue', aim: '>= 6000', batch: 200, connections: 4 }),
  issueBench({ name: 'issue-spire', mode: 'sign', aim: '>= 2500', batch: 200, connections: 4 }),
  firstMessage,
  openStreams,
  sdsPush,
  flood,
  attestKernel,
  attestDocker,
  attestCri,
  attestSystemd,
  attestPods,
  bundleFetch,
  jwtValidate,
  starting,
  hashing,
  handshakes,
  attesting,
  idleAgents,
  deliveryBench('delivery-1k', 1_000, 90),
  deliveryBench('delivery-1m', 1_000_000, 600),
];

async function main(names: readonly string[]): Promise<number> {
  const unknown = names.filter((name) => benches.every((bench) => bench.name !== name));
  if (unknown.length > 0) {
    process.stderr.write(`no figure ${unknown.join(', ')}; there are ${benches.map(({ name }) => name).join(', ')}\n`);
    return 2;
  }
  let failed = 0;
  for (const bench of benches.filter(({ name }) => names.length === 0 || names.includes(name))) {
    if (!(await runBench(bench))) failed += 1;
  }
  return failed === 0 ? 0 : 1;
}

async function runBench({ name, within, run }: Bench): Promise<boolean> {
  const load = loadAverage();
  const before = processorTimes();
  const command = `npm run bench -- ${name}`;
  const late = new AbortController();
  try {
    await Promise.race([
      run((figure) => {
        const steal = stealPercent(before, processorTimes());
        process.stdout.write(`${lineOf(figure, command, { steal, load })}\n`);
      }),
      expiry(name, within, late.signal),
    ]);
    return true;
  } catch (error) {
    process.stderr.write(`${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    return false;
  } finally {
    late.abort();
  }
}

function expiry(name: string, seconds: number, signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${name} took longer than ${seconds} s`)), seconds * 1000);
    signal.addEventListener('abort', () => clearTimeout(timer));
  });
}

// So that what is running then ends as well.
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => process.exit(1));
// What a bench that was given up still has running ends with this process.
process.exit(await main(process.argv.slice(2)));
