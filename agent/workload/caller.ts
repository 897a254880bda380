/**
 * The process behind one connection: attested once, at its first call, and followed while the connection lasts. What it is
 * entitled to is the cache's business.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { abortReason, linkedController, untilAborted } from '../../runtime/abort.ts';
import type { Peer } from '../../runtime/peer.ts';
import { createWatch, type Watch, type WatchSource } from '../../runtime/watch.ts';
import type { WorkloadProcess } from '../process.ts';
import type { Attestation } from './attest.ts';

/** Who asks for identities that are another's, and as whom it refers to that other; for the record. */
export interface Behalf {
  readonly broker: SpiffeId;
  /** `pid:4711`, `pod:namespace/name`. */
  readonly reference: string;
}

/** Whom identities are for, as the record names it. */
export interface Beneficiary {
  /** Undefined where it is no one process. */
  readonly process: WorkloadProcess | undefined;
  /** Undefined where it asked itself. */
  readonly behalf?: Behalf | undefined;
}

/** A beneficiary of which is known what is true of it: a process that connected, or what a broker referred to. */
export interface Attested extends Beneficiary {
  /**
   * What is attested, newest first and on.
   * @throws as `Attest`
   */
  attested(signal: AbortSignal): Promise<Watch<Attestation>>;
}

/** What is attested of it is shared by all calls of the connection. */
export interface Caller extends Attested {
  readonly peer: Peer;
  readonly process: WorkloadProcess;
}

/** Attests and goes on attesting until the signal aborts; see `followAttestation`. */
export type FollowPeer = (peer: Peer, signal: AbortSignal) => AsyncIterableIterator<Attestation>;

export function createCaller(peer: Peer, follow: FollowPeer, onAttested: (caller: Caller, attestation: Attestation) => void): Caller {
  let attesting: Promise<WatchSource<Attestation>> | undefined;
  let path = '';

  const start = async (): Promise<WatchSource<Attestation>> => {
    const stop = linkedController(peer.signal);
    try {
      const attestations = follow(peer, stop.signal);
      const first = await attestations.next();
      if (first.done === true) throw abortReason(peer.signal);
      const watch = createWatch(first.value);
      learn(first.value);
      void goOn(attestations, watch).finally(() => stop.unlink());
      return watch;
    } catch (error) {
      stop.unlink();
      // The next call asks anew.
      attesting = undefined;
      throw error;
    }
  };

  const goOn = async (attestations: AsyncIterableIterator<Attestation>, watch: WatchSource<Attestation>): Promise<void> => {
    try {
      for await (const attestation of attestations) {
        watch.set(attestation);
        learn(attestation);
      }
      watch.close();
    } catch (error) {
      watch.close(error instanceof Error ? error : new SpiffeError('internal', 'workload.attest', 'attesting failed', { cause: error }));
    }
  };

  const learn = (attestation: Attestation): void => {
    for (const selector of attestation.selectors) if (selector.startsWith('unix:path:')) path = selector.slice('unix:path:'.length);
    onAttested(caller, attestation);
  };

  const caller: Caller = {
    peer,
    get process() {
      const { pid, uid, gid, facts } = peer;
      return { pid, uid, gid, startTime: facts.startTime, path };
    },
    attested(signal) {
      attesting ??= start();
      return untilAborted(attesting, signal);
    },
  };
  return caller;
}
