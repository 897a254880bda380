/**
 * A process that did not connect, looked at for an operator. Nothing is ever issued on the strength of it.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Peer } from '../../runtime/peer.ts';
import { openNamedProcess } from '../workload/named-process.ts';

/**
 * Runs `ask` with the process held on to, and lets go afterwards.
 * @throws missing `explain.no-process`
 */
export async function withProcess<T>(pid: number, now: number, ask: (peer: Peer) => Promise<T>): Promise<T> {
  const held = openNamedProcess(pid, now);
  if (held === undefined) {
    throw new SpiffeError('missing', 'explain.no-process', `there is no process ${String(pid)} that this agent can see`);
  }
  try {
    return await ask(held.peer);
  } finally {
    held.close(new SpiffeError('unavailable', 'peer.closed', 'nobody looks any more'));
  }
}
