/**
 * A delivery as somebody whom identities are for: of it nothing is attested but that the agent's configuration has a
 * delivery of this name. What it gets for that is, as for everybody, for the entries to say.
 */
import { closeSync } from 'node:fs';
import { untilAborted } from '../../runtime/abort.ts';
import { effectiveGid, effectiveUid, ownPid } from '../../runtime/linux.ts';
import { openStat, readFacts } from '../../runtime/peer.ts';
import { createWatch } from '../../runtime/watch.ts';
import { composeSelector } from '../../spiffe/selector.ts';
import type { WorkloadProcess } from '../process.ts';
import type { Attestation } from '../workload/attest.ts';
import type { Attested } from '../workload/caller.ts';

/** The record names the agent's own process, which writes the files, and the selector says for which delivery. */
export function attestedDelivery(name: string): Attested {
  const selector = composeSelector('delivery', name);
  const attestation: Attestation = Object.freeze({
    selectors: new Set([selector]),
    given: new Map([['delivery', [selector]]]),
    reports: [{ attestor: 'delivery', ms: 0, selectors: 1, omitted: [] }],
    incomplete: false,
    pending: undefined,
    rechecks: [],
  });
  // It holds for as long as the configuration does, which is for as long as the agent runs.
  const attestations = createWatch(attestation);
  return { process: ownProcess(), attested: (signal) => untilAborted(Promise.resolve(attestations), signal) };
}

function ownProcess(): WorkloadProcess {
  const pid = ownPid();
  const stat = openStat(pid);
  const startTime = stat === undefined ? undefined : readFacts(pid, stat)?.startTime;
  if (stat !== undefined) closeSync(stat);
  return { pid, uid: effectiveUid(), gid: effectiveGid(), startTime: startTime ?? '0', path: '' };
}
