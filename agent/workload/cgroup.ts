/**
 * The control groups a process is in, as `/proc/PID/cgroup` lists them. Which of them are containers or units is left to
 * `container.ts` and the attestors.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { SpiffeError } from '../../spiffe/errors.ts';

/** One hierarchy: `0` and no controllers for cgroup v2, a number and names for each of v1. */
export interface CgroupLine {
  readonly hierarchy: number;
  /** Joined by commas; `name=systemd` for a hierarchy without controllers. */
  readonly controllers: string;
  /**
   * As the kernel shows it to the reader: from the root of the reader's cgroup namespace, `/../…` for what is outside of
   * it. Bytes that are no UTF-8 are U+FFFD.
   */
  readonly path: string;
}

/** A dozen hierarchies with paths of 4,096 bytes, which is the longest the kernel writes. */
const LIMIT_BYTES = 65_536;
const bytes = Buffer.alloc(LIMIT_BYTES);

/**
 * Line ends separate safely: the kernel makes no group with one in its name. Colons are legal in a name, not before it.
 * @throws internal `cgroup.form`
 */
export function parseCgroups(text: string): readonly CgroupLine[] {
  const lines = text.split('\n');
  if (lines.pop() !== '') throw malformed();
  return lines.map((line) => {
    const [, hierarchy = '', controllers = '', path = ''] = /^(\d{1,9}):([^:]*):(\/.*)$/su.exec(line) ?? [];
    if (path === '') throw malformed();
    return Object.freeze({ hierarchy: Number(hierarchy), controllers, path });
  });
}

function malformed(): SpiffeError {
  return new SpiffeError('internal', 'cgroup.form', 'the control groups of the process are not of the known form');
}

/**
 * By number: who asks must find the process to be the same one afterwards.
 * @throws unavailable `cgroup.gone`; limited `cgroup.too-long`; internal `cgroup.form`
 */
export function readCgroups(pid: number): readonly CgroupLine[] {
  return readFrom(`/proc/${String(pid)}/cgroup`);
}

/** Of this program; throws as `readCgroups`. */
export function readOwnCgroups(): readonly CgroupLine[] {
  return readFrom('/proc/self/cgroup');
}

function readFrom(file: string): readonly CgroupLine[] {
  let fd = -1;
  let length = 0;
  try {
    fd = openSync(file, 'r');
    for (;;) {
      const read = readSync(fd, bytes, length, LIMIT_BYTES - length, null);
      if (read === 0) break;
      length += read;
      if (length === LIMIT_BYTES) throw tooLong();
    }
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    throw new SpiffeError('unavailable', 'cgroup.gone', 'the control groups of the process cannot be read', { cause: error });
  } finally {
    if (fd >= 0) closeSync(fd);
  }
  return parseCgroups(bytes.toString('utf8', 0, length));
}

function tooLong(): SpiffeError {
  return new SpiffeError('limited', 'cgroup.too-long', 'the process is in more control groups than are looked at');
}
