/**
 * Bounded looks at the files the kernel shows of one process. What a fact means, and whether the process is still the same
 * one, is left to whoever asks.
 */
import { closeSync, openSync, readFileSync, readSync, readlinkSync } from 'node:fs';
import { systemCode } from '../../../runtime/linux.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';

/** A status with 1,024 groups has some 12 kB; whoever writes a longer command line is not looked at to its end. */
const LIMIT_BYTES = 65_536;
const bytes = Buffer.alloc(LIMIT_BYTES);
/** A node of Kubernetes has a thousand mounts, of some 200 bytes each. */
const LIMIT_MOUNTS_BYTES = 4 * 1024 * 1024;

/**
 * @param name below `/proc/PID/`
 * @returns a copy
 * @throws unavailable `process.gone|hidden`; limited `process.too-long`
 */
export function readProcessFile(pid: number, name: string): Buffer {
  let fd = -1;
  let length = 0;
  try {
    fd = openSync(`/proc/${String(pid)}/${name}`, 'r');
    for (;;) {
      const read = readSync(fd, bytes, length, LIMIT_BYTES - length, null);
      if (read === 0) return Buffer.from(bytes.subarray(0, length));
      length += read;
      if (length === LIMIT_BYTES) throw tooLong();
    }
  } catch (error) {
    throw error instanceof SpiffeError ? error : hidden(error);
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

/**
 * The options of one mount, as the mount namespace of the process has it.
 * @param fd of this program, of a file on the mount
 * @returns undefined for a mount that the process does not see
 * @throws as `readProcessFile`; internal `process.form`
 */
export function mountOptions(pid: number, fd: number): readonly string[] | undefined {
  const mount = /^mnt_id:\t(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${String(fd)}`, 'latin1'))?.[1];
  if (mount === undefined) throw malformed();
  let from = -1;
  let rest = '';
  try {
    from = openSync(`/proc/${String(pid)}/mountinfo`, 'r');
    for (let total = 0; total < LIMIT_MOUNTS_BYTES; ) {
      const read = readSync(from, bytes, 0, LIMIT_BYTES, null);
      const lines = (rest + bytes.toString('latin1', 0, read)).split('\n');
      // Number, parent, device, root, mount point, options; the kernel escapes blanks.
      const line = lines.find((one, at) => at < lines.length - 1 && one.startsWith(`${mount} `));
      if (line !== undefined) return (line.split(' ')[5] ?? '').split(',');
      if (read === 0) return undefined;
      rest = lines.at(-1) ?? '';
      total += read;
    }
  } catch (error) {
    throw hidden(error);
  } finally {
    if (from >= 0) closeSync(from);
  }
  throw tooLong();
}

/** @throws unavailable `process.gone|hidden` */
export function readProcessLink(pid: number | 'self', name: string): Buffer {
  try {
    return readlinkSync(`/proc/${String(pid)}/${name}`, { encoding: 'buffer' });
  } catch (error) {
    throw hidden(error);
  }
}

/** What a failed look at `/proc` means. */
export function hidden(error: unknown): SpiffeError {
  const code = systemCode(error);
  if (code === 'ENOENT' || code === 'ESRCH') {
    return new SpiffeError('unavailable', 'process.gone', 'the process has no such fact, or has ended', { cause: error });
  }
  const detail = { code: code ?? 'unknown' };
  return new SpiffeError('unavailable', 'process.hidden', 'the kernel does not show this of the process', { detail, cause: error });
}

function tooLong(): SpiffeError {
  return new SpiffeError('limited', 'process.too-long', 'what the kernel shows of the process is longer than is read');
}

/** @throws internal `process.form` */
export function malformed(): SpiffeError {
  return new SpiffeError('internal', 'process.form', 'what the kernel shows of the process is not of the known form');
}

const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** @returns undefined for what is no text of one line, and so can be no selector */
export function plainText(raw: Buffer): string | undefined {
  try {
    const decoded = text.decode(raw);
    return /[\p{Cc}\u2028\u2029]/u.test(decoded) ? undefined : decoded;
  } catch {
    return undefined;
  }
}
