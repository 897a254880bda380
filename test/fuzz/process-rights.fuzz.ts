/**
 * Any text as what the kernel says of a process's rights and parents, and as the first line of a script: values of the right
 * form, or none.
 */
import { parseBirth } from '../../agent/workload/attestors/process-ancestors.ts';
import { parseShebang } from '../../agent/workload/attestors/process-script.ts';
import { capabilityNames, parseProcessStatus } from '../../agent/workload/attestors/process-status.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

export const name = 'process-rights';

export function corpus(): Uint8Array[] {
  return [
    '42 (a) b) S 7 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 386108 8192 100',
    'Name:\tsh\nUid:\t1\t2\t3\t4\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\nNoNewPrivs:\t1\nSeccomp:\t2\n',
    'Name:\tCapEff:\\n\nUid:\t0\t0\t0\t0\nCapPrm:\t0\nCapEff:\t0\nSeccomp:\t3\n',
    '#!/usr/bin/env -S python3 -u\n',
    '#! \t/bin/sh -e\t\nexit',
  ].map((text) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('latin1');
  unlessRefused(() => {
    const { parent, startedAt } = parseBirth(text);
    if (!Number.isSafeInteger(parent) || parent < 0 || startedAt < 0n) throw new Error('a parent that is none');
  });
  unlessRefused(() => {
    const { effective, permitted, uids } = parseProcessStatus(text);
    if (capabilityNames(effective).length > 64 || capabilityNames(permitted).length > 64) throw new Error('more capabilities than bits');
    if (uids.length !== 4 || !uids.every((uid) => Number.isSafeInteger(uid))) throw new Error('ids that are none');
  });
  const line = parseShebang(input);
  if (line === undefined) return;
  if (!/^\/[^ ]*$/u.test(line.interpreter) || (line.argument !== undefined && !/^[^ ](?:.*[^ ])?$/u.test(line.argument))) {
    throw new Error('a line that the kernel reads otherwise');
  }
}

function unlessRefused(parse: () => void): void {
  try {
    parse();
  } catch (error) {
    if (!(error instanceof SpiffeError)) throw error;
  }
}
