/**
 * Peers for tests: of a process that runs, without a socket, and of none at all. Real connections are the acceptor's.
 */
import { closeSync } from 'node:fs';
import { closeDescriptor, openPidfd } from '../../runtime/linux.ts';
import { createPeer, openStat, readFacts } from '../../runtime/peer.ts';
import type { Peer, PeerChange } from '../../runtime/peer.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

export interface HeldPeer {
  readonly peer: Peer;
  /** Ends the connection that there is not. */
  close(): void;
}

/** The process with this number, as if it had connected. */
export function peerOfProcess(pid: number, ids: { readonly uid: number; readonly gid: number } = { uid: 0, gid: 0 }): HeldPeer {
  const pidfd = openPidfd(pid);
  const stat = openStat(pid);
  const facts = stat === undefined ? undefined : readFacts(pid, stat);
  if (stat === undefined || facts === undefined) throw new Error(`no process ${String(pid)}`);
  const over = new AbortController();
  const peer = createPeer({ pid, ...ids, tier: 2, acceptedAt: 0, facts, pidfd, stat, signal: over.signal });
  return {
    peer,
    close() {
      over.abort(new SpiffeError('unavailable', 'peer.closed', 'the connection is closed'));
      closeDescriptor(pidfd);
      closeSync(stat);
    },
  };
}

export interface FakePeer extends Peer {
  /** From now on it is not the process it was. */
  become(change: PeerChange): void;
}

/** Nobody's process, with a number that no system gives out. */
export function fakePeer(): FakePeer {
  const over = new AbortController();
  let change: true | PeerChange = true;
  return {
    pid: 0x7fff_ffff,
    uid: 1000,
    gid: 1000,
    tier: 1,
    acceptedAt: 0,
    facts: { startTime: '1', startCode: '1', startStack: '1', exe: '1:1' },
    signal: over.signal,
    exited: () => change === 'peer.exited',
    stillTheSame: () => change,
    become(next) {
      change = next;
      if (next !== 'peer.image') over.abort(new SpiffeError('unavailable', next, 'not the process that connected'));
    },
  };
}
