/**
 * Who else could change what a path leads to: directories above it that other users own or may write. What follows from
 * that is for the caller to say.
 */
import { lstat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { effectiveUid } from './linux.ts';

/** A directory or link on the way that is another user's, or may be written by others. */
export interface Weakness {
  readonly path: string;
  readonly uid: number;
  readonly mode: number;
  readonly is: 'owner' | 'writable';
}

/**
 * The nearest weakness above an absolute path without `.` and `..`; links on the way are looked at as such, not followed.
 * @throws what `lstat` does
 */
export async function weaknessAbove(path: string): Promise<Weakness | undefined> {
  const self = effectiveUid();
  for (let at = dirname(path); ; at = dirname(at)) {
    const stats = await lstat(at);
    const { uid, mode } = stats;
    if (uid !== 0 && uid !== self) return { path: at, uid, mode, is: 'owner' };
    // In a sticky directory nobody can move what belongs to others; a link has no mode of its own.
    const open = (mode & 0o022) !== 0 && (mode & 0o1000) === 0 && !stats.isSymbolicLink();
    if (open) return { path: at, uid, mode, is: 'writable' };
    if (at === '/') return undefined;
  }
}
