/**
 * Whether the file of a runtime's socket can only have been put there by root or by this program's own user; who answers
 * on it is believed then. Connecting is left to `messages.ts`.
 */
import { lstatSync, realpathSync } from 'node:fs';
import type { Stats } from 'node:fs';
import { dirname } from 'node:path';
import { effectiveUid, systemCode } from '../../../../runtime/linux.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';

/**
 * Links are followed first; others must not be able to rename on the way down, where sticky directories are safe.
 * Some 20 us.
 * @throws unavailable `cri.socket.missing`; denied `cri.socket.file|owner|mode|directory`
 */
export function checkSocket(path: string): void {
  try {
    const real = realpathSync(path);
    checkFile(lstatSync(real), path);
    for (let at = dirname(real); ; at = dirname(at)) {
      checkDirectory(lstatSync(at), at);
      if (at === dirname(at)) return;
    }
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    const detail = { path, code: systemCode(error) ?? 'unknown' };
    throw new SpiffeError('unavailable', 'cri.socket.missing', "the runtime's socket is not there", { detail, cause: error });
  }
}

function checkFile(stats: Stats, path: string): void {
  const detail = { path };
  if (!stats.isSocket()) {
    throw new SpiffeError('denied', 'cri.socket.file', "the path of the runtime's socket holds something else", { detail });
  }
  if (!isTrusted(stats)) {
    throw new SpiffeError('denied', 'cri.socket.owner', "the runtime's socket belongs to another user", { detail });
  }
  if ((stats.mode & 0o002) !== 0) {
    throw new SpiffeError('denied', 'cri.socket.mode', "everybody may write to the runtime's socket", { detail });
  }
}

function checkDirectory(stats: Stats, path: string): void {
  if (isTrusted(stats) && (stats.mode & 0o1002) !== 0o002) return;
  throw new SpiffeError('denied', 'cri.socket.directory', "others can change names on the way to the runtime's socket", {
    detail: { path },
  });
}

function isTrusted({ uid }: Stats): boolean {
  return uid === 0 || uid === effectiveUid();
}
