/**
 * Any text as what the kernel says of a process, whose name is the process's own choice: facts of the right form, or none.
 */
import { parseStatus } from '../../agent/workload/attestors/unix.ts';
import { parseStat } from '../../runtime/peer.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

export const name = 'process-facts';

export function corpus(): Uint8Array[] {
  const rest = 'S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 386108 8192 100 18446744073709551615 4194304 4198400 140730000000000 0 0';
  return [
    `42 (node) ${rest}`,
    `42 (a) b) S 0 0) ${rest}`,
    `42 () ${rest}`,
    '42 (short) S 1',
    'Name:\tnode\nUid:\t0\t1000\t0\t0\nGid:\t0\t1000\t0\t0\nGroups:\t4 24 27 \n',
    'Name:\tUid:\\n\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t\n',
    'Uid:\t-1\t4294967296\t3\t4\n',
  ].map((text) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('latin1');
  const stat = parseStat(text);
  if (stat !== undefined && ![stat.startTime, stat.startCode, stat.startStack].every((fact) => /^\d+$/.test(fact))) {
    throw new Error('a fact that is no number');
  }
  let ids: ReturnType<typeof parseStatus>;
  try {
    ids = parseStatus(text, 64);
  } catch (error) {
    // The text is the kernel's: what is wrong with it is nobody's request, so any kind of ours will do.
    if (error instanceof SpiffeError) return;
    throw error;
  }
  if (ids.groups.length > 64) throw new Error('more groups than allowed');
  for (const id of [ids.uid, ids.gid, ...ids.groups]) {
    if (!Number.isInteger(id) || id < 0 || id > 0xffff_ffff) throw new Error('an id that is none');
  }
}
