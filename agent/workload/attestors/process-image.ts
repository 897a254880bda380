/**
 * The file a process runs: where it is, and whether anybody but root could have written it. Its digest is `unix-hash.ts`.
 */
import { closeSync, fstatSync, openSync, statSync, statfsSync } from 'node:fs';
import type { Peer } from '../../../runtime/peer.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { hidden, mountOptions, plainText, readProcessLink } from './process-file.ts';
import type { Namespaces } from './process-namespace.ts';
import type { ProcessStatus } from './process-status.ts';

const deleted = ' (deleted)';

/**
 * Where the running file of a process is on the host. A path in another mount namespace is left out: whoever made that
 * namespace, which any user may, chose what its files are called.
 * @throws unavailable `process.gone|hidden`; internal `process.form`
 */
export function hostPathOf(pid: number, namespaces: Namespaces): { readonly path: string } | { readonly reason: string } {
  if (!namespaces.isHost(pid, 'mnt')) return { reason: 'process.path.namespace' };
  const path = plainText(readProcessLink(pid, 'exe'));
  if (path === undefined) return { reason: 'process.path.text' };
  if (!path.startsWith('/')) return { reason: 'process.path.unreachable' };
  // The kernel marks a name that is gone with a suffix which is also a legal end of a name.
  if (path.endsWith(deleted) && identityOf(path) !== identityOf(`/proc/${String(pid)}/exe`)) return { reason: 'process.path.deleted' };
  return { path };
}

function identityOf(path: string): string {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${String(dev)}:${String(ino)}`;
  } catch {
    return '';
  }
}

/** What a file in it says is its server's word, and a user may be the server. */
const FUSE_MAGIC = 0x6573_5546;
const WRITE_BITS = 0o022n;
/** By number: to bind low ports, broadcast, use raw sockets, lock memory, be nice, write audit lines, wake the machine. */
const HARMLESS = [10, 11, 13, 14, 23, 29, 35, 36].reduce((set, bit) => set | (1n << BigInt(bit)), 0n);

/**
 * Why the workload's user might have written the image; undefined when it is a regular file of root's that neither group
 * nor others may write (nor, hence, any entry of an access list), on no file system in user space nor on one mounted
 * `nosuid`, as those are that users bring along, and the process is not root and has no capability that could make it so.
 * @throws unavailable `process.gone|hidden`; limited `process.too-long`; internal `process.form`
 */
export function writableBecause(peer: Peer, status: ProcessStatus): string | undefined {
  const exe = `/proc/${String(peer.pid)}/exe`;
  let fd = -1;
  try {
    fd = openSync(exe, 'r');
    const stats = fstatSync(fd, { bigint: true });
    if (!stats.isFile() || `${String(stats.dev)}:${String(stats.ino)}` !== peer.facts.exe) return 'process.image.changed';
    if (stats.uid !== 0n) return 'process.image.owner';
    if ((stats.mode & WRITE_BITS) !== 0n) return 'process.image.mode';
    if (statfsSync(exe).type === FUSE_MAGIC) return 'process.image.filesystem';
    const options = mountOptions(peer.pid, fd);
    if (options === undefined || options.includes('nosuid')) return 'process.image.mount';
  } catch (error) {
    throw error instanceof SpiffeError ? error : hidden(error);
  } finally {
    if (fd >= 0) closeSync(fd);
  }
  return status.uids.includes(0) || (status.permitted & ~HARMLESS) !== 0n ? 'process.image.privileged' : undefined;
}
