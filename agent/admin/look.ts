/**
 * A process that did not connect, looked at for an operator: a Peer made from its number. Nothing is ever issued on the
 * strength of it.
 */
import { closeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { SpiffeError } from '../../spiffe/errors.ts';
import { closeDescriptor, openPidfd } from '../../runtime/linux.ts';
import { createPeer, openStat, readFacts, type Peer } from '../../runtime/peer.ts';

/**
 * Runs `ask` with the process held on to, and lets go afterwards.
 * @throws missing `explain.no-process`
 */
export async function withProcess<T>(pid: number, now: number, ask: (peer: Peer) => Promise<T>): Promise<T> {
  const stat = pid > 0 ? openStat(pid) : undefined;
  if (stat === undefined) throw noProcess(pid);
  const over = new AbortController();
  let pidfd = -1;
  try {
    pidfd = openOrNone(pid);
    const facts = readFacts(pid, stat);
    const ids = await readIds(pid);
    if (facts === undefined || ids === undefined) throw noProcess(pid);
    const tier = pidfd < 0 ? 3 : 2;
    return await ask(createPeer({ pid, ...ids, tier, acceptedAt: now, facts, pidfd, stat, signal: over.signal }));
  } finally {
    over.abort(new SpiffeError('unavailable', 'peer.closed', 'nobody looks any more'));
    if (pidfd >= 0) closeDescriptor(pidfd);
    closeSync(stat);
  }
}

function openOrNone(pid: number): number {
  try {
    return openPidfd(pid);
  } catch {
    return -1;
  }
}

/** Effective ids, as a connection's credentials would have them. */
async function readIds(pid: number): Promise<{ readonly uid: number; readonly gid: number } | undefined> {
  try {
    const status = await readFile(`/proc/${String(pid)}/status`, 'utf8');
    const uid = /^Uid:\t\d+\t(\d+)/m.exec(status)?.[1];
    const gid = /^Gid:\t\d+\t(\d+)/m.exec(status)?.[1];
    return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
  } catch {
    return undefined;
  }
}

function noProcess(pid: number): SpiffeError {
  return new SpiffeError('missing', 'explain.no-process', `there is no process ${String(pid)} that this agent can see`);
}
