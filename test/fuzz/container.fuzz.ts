/**
 * Any text as a process's control groups: a container of the right form that the text names, or none; and none at all below
 * a group that somebody but root may write to.
 */
import { parseCgroups } from '../../agent/workload/cgroup.ts';
import type { CgroupLine } from '../../agent/workload/cgroup.ts';
import { containerOf } from '../../agent/workload/container.ts';
import type { ContainerRef } from '../../agent/workload/container.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { cgroupVectors } from '../vectors/cgroups.ts';

export const name = 'container';

export function corpus(): Uint8Array[] {
  return cgroupVectors.map(({ text }) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('utf8');
  let lines: readonly CgroupLine[];
  try {
    lines = parseCgroups(text);
  } catch (error) {
    // The text is the kernel's: what is wrong with it is nobody's request.
    if (error instanceof SpiffeError) return;
    throw error;
  }
  const ref = refOf(lines);
  if (ref !== undefined && !(/^[0-9a-f]{64}$/.test(ref.id) && text.includes(ref.id))) throw new Error('an id that is none');
  if (ref?.podUid !== undefined && !/^[0-9a-f-]{32,36}$/.test(ref.podUid)) throw new Error('a pod that is none');
  if (refOf(below('/system.slice/evil.service', lines)) !== undefined) throw new Error('a container made in a service');
  const owner = refOf(below('/user.slice/user-1000.slice/user@1000.service', lines));
  if (owner !== undefined && owner.ownerUid !== 1000) throw new Error('a container of another than the user who made the group');
}

function below(parent: string, lines: readonly CgroupLine[]): readonly CgroupLine[] {
  return lines.map((line) => ({ ...line, path: parent + line.path }));
}

/** @returns undefined also for what is refused */
function refOf(lines: readonly CgroupLine[]): ContainerRef | undefined {
  try {
    return containerOf(lines, []);
  } catch (error) {
    if (error instanceof SpiffeError && error.kind === 'denied') return undefined;
    throw error;
  }
}
