/**
 * The question asked before and after every attestation, and before anything leaves: whether a connection's process is the
 * one that connected. How that is found out is `runtime/peer.ts`.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Peer } from '../../runtime/peer.ts';

/** @throws denied `peer.exited|closed|image` unless the process is the one that connected, running what it ran then */
export function requireSame(peer: Peer): void {
  const same = peer.stillTheSame();
  switch (same) {
    case true:
      return;
    case 'peer.exited':
      throw new SpiffeError('denied', 'peer.exited', 'the process that connected has exited');
    case 'peer.closed':
      throw new SpiffeError('denied', 'peer.closed', 'the connection is closed');
    case 'peer.image':
      throw new SpiffeError('denied', 'peer.image', 'the process runs another program than when it connected');
    default:
      same satisfies never;
  }
}
