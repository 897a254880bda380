/**
 * A program that only accepts: `node acceptor-host.ts PATH LIMITS`, the limits as JSON. It writes its events as lines of
 * JSON and answers each line of input with its state; it ends, without stopping the acceptor, when its input does.
 */
import { readdirSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { listenUnix } from '../../runtime/acceptor.ts';
import type { AdmissionLimits } from '../../runtime/acceptor.ts';
import { systemClock } from '../../runtime/clock.ts';

const [path = '', limits = '{}'] = process.argv.slice(2);
const write = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
// Listing opens one more descriptor, which may be the one that is not to be had.
const descriptors = (): number => {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return -1;
  }
};

const roomy: AdmissionLimits = { connectionsPerUid: 10_000, connectsPerSecondPerUid: 100_000, total: 10_000 };
const acceptor = await listenUnix({
  path,
  mode: 0o777,
  backlog: 4096,
  limits: { ...roomy, ...(JSON.parse(limits) as Partial<AdmissionLimits>) },
  clock: systemClock,
  onConnection: (socket) => socket.resume(),
  onEvent: write,
});
write({ kind: 'listening', tier: acceptor.tier });
const lines = createInterface({ input: process.stdin });
lines.on('line', () => write({ kind: 'state', ...acceptor.counters(), descriptors: descriptors(), cpu: process.cpuUsage() }));
lines.once('close', () => process.exit(0));
