/**
 * The systemd unit that a connected process belongs to, asked from systemd and compared with the kernel's cgroup path.
 * `systemd:id` and `systemd:fragment_path` are written as SPIRE's `systemd` attestor writes them; `systemd:slice`, one for
 * each slice around the unit, is ours.
 *
 * Only units of the system's service manager have an `id`: what runs below a user's service manager is in that user's
 * `user@UID.service`, whatever its own unit is called. A process in no unit but in a slice has the slice's id.
 */
import type { Clock } from '../../../../runtime/clock.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import { composeSelector } from '../../../../spiffe/selector.ts';
import type { Selector } from '../../../../spiffe/selector.ts';
import type { Omit, WorkloadAttestor } from '../../attestor.ts';
import { readCgroups } from '../../cgroup.ts';
import type { CgroupLine } from '../../cgroup.ts';
import { requireSame } from '../../same-process.ts';
import { placeOf } from './place.ts';
import { createUnits } from './units.ts';
import type { SystemdAddress } from './units.ts';

export interface SystemdAttestorOptions {
  readonly clock: Clock;
  /** In [0, 1): jitter of the delay before connecting again. */
  readonly random: () => number;
  /** The system's bus at `/run/dbus/system_bus_socket`, or for root `/run/systemd/private`. */
  readonly address: SystemdAddress;
  /** The user who must listen on the socket and own systemd's name on the bus. */
  readonly trustedUid?: number;
  /** For each question to the bus or to systemd. */
  readonly deadlineMs?: number;
  /** The control groups of a process; throws as `readCgroups`. */
  readonly cgroupsOf?: (pid: number) => readonly CgroupLine[];
}

/** Stop it to end the connection. */
export interface SystemdAttestor extends WorkloadAttestor {
  stop(): Promise<void>;
}

const DEFAULT_DEADLINE_MS = 3_000;
/** PATH_MAX of Linux. */
const LONGEST_PATH = 4_096;

/**
 * Throws while attesting: denied `systemd.mismatch|cgroup.ambiguous` when systemd and the kernel do not agree, and what
 * `units.ts`, `readCgroups` and `requireSame` throw.
 */
export function createSystemdAttestor(options: SystemdAttestorOptions): SystemdAttestor {
  const { clock, random, address, trustedUid = 0, deadlineMs = DEFAULT_DEADLINE_MS, cgroupsOf = readCgroups } = options;
  const units = createUnits({ clock, random, address, trustedUid, deadlineMs });
  return {
    name: 'systemd',
    attest: async (peer, { signal, omit, recheck }) => {
      recheck(units.changes);
      const unit = await units.ofProcess(peer.pid, signal);
      const lines = unit === undefined ? [] : cgroupsOf(peer.pid);
      // Both went by the number.
      requireSame(peer);
      if (unit === undefined) return [];
      const place = placeOf(lines);
      if (place.unit !== unit.id) {
        throw new SpiffeError('denied', 'systemd.mismatch', 'systemd names another unit than the kernel has the process in');
      }
      return [
        systemd('id', unit.id),
        ...fragmentPathOf(unit.fragmentPath, omit),
        ...place.slices.map((slice) => systemd('slice', slice)),
      ];
    },
    stop() {
      units.close();
      return Promise.resolve();
    },
  };
}

function systemd(kind: string, value: string): Selector {
  return composeSelector('systemd', `${kind}:${value}`);
}

/** Empty where the unit has no file, as SPIRE gives it. */
function fragmentPathOf(path: string, omit: Omit): readonly Selector[] {
  if (path === '' || (path.startsWith('/') && path.length <= LONGEST_PATH && !/[\p{Cc}\u2028\u2029]/u.test(path))) {
    return [systemd('fragment_path', path)];
  }
  omit('systemd:fragment_path', 'systemd.fragment-path.form');
  return [];
}
