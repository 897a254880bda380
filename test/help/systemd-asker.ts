/**
 * Attests processes by their numbers with the systemd attestor: `node systemd-asker.ts TYPE SOCKET`, run where the numbers
 * are true. Each line of input is a list of numbers, attested all at once; it prints the answers, and every change.
 */
import { createInterface } from 'node:readline';
import { createSystemdAttestor } from '../../agent/workload/attestors/systemd/systemd.ts';
import { systemClock } from '../../runtime/clock.ts';
import type { Watch } from '../../runtime/watch.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { peerOfProcess } from './peer.ts';

const [type = '', socketPath = ''] = process.argv.slice(2);
const attestor = createSystemdAttestor({ clock: systemClock, random: Math.random, address: { type: type === 'bus' ? 'bus' : 'private', socketPath } });
const over = new AbortController();
let followed: Watch<unknown> | undefined;

async function follow(watch: Watch<unknown>): Promise<void> {
  if (followed !== undefined) return;
  followed = watch;
  const first = watch.value;
  for await (const value of watch.values(over.signal)) if (value !== first) say({ event: 'changed' });
}

function say(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function attest(pid: number): Promise<object> {
  const held = peerOfProcess(pid);
  try {
    const question = { wanted: { asks: () => true }, signal: over.signal, omit: () => undefined, recheck: (watch: Watch<unknown>) => void follow(watch) };
    return { selectors: await attestor.attest(held.peer, question) };
  } catch (error) {
    return error instanceof SpiffeError ? { reason: error.reason, detail: error.detail } : { reason: String(error) };
  } finally {
    held.close();
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const beganAt = systemClock.monotonic();
  const answers = await Promise.all(line.split(' ').map((pid) => attest(Number(pid))));
  say({ event: 'answers', answers, ms: systemClock.monotonic() - beganAt });
}
over.abort();
await attestor.stop();
