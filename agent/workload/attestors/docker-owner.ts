/**
 * Whether a process runs as a user or as one of the ids that the system set aside for the containers of that user. Which
 * engine a user runs, and in whose control group a process is, are `docker.ts` and `container.ts`.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { systemCode } from '../../../runtime/linux.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createNameTable } from './unix-names.ts';

export interface ContainerOwners {
  /** @throws unavailable `docker.subuid.unreadable`; limited `docker.subuid.too-large`; as the table of names */
  owns(owner: number, uid: number): Promise<boolean>;
}

export interface ContainerOwnersOptions {
  readonly subuidFile?: string;
  readonly passwdFile?: string;
}

const LIMIT_BYTES = 1024 * 1024;

/** Reads `/etc/subuid` anew at each question that the owner's own id does not answer. */
export function createContainerOwners(options: ContainerOwnersOptions = {}): ContainerOwners {
  const { subuidFile = '/etc/subuid', passwdFile = '/etc/passwd' } = options;
  const users = createNameTable(passwdFile);
  return {
    async owns(owner, uid) {
      if (uid === owner) return true;
      const text = readSubordinates(subuidFile);
      if (text === undefined) return false;
      const name = await users.nameOf(owner);
      return text.split('\n').some((line) => {
        const [, user = '', first = '', count = ''] = /^([^:]+):(\d{1,10}):(\d{1,10})$/.exec(line) ?? [];
        return (user === name || user === String(owner)) && uid >= Number(first) && uid < Number(first) + Number(count);
      });
    },
  };
}

/** @returns undefined when there is no such file, and so nothing set aside */
function readSubordinates(path: string): string | undefined {
  const bytes = Buffer.alloc(LIMIT_BYTES + 1);
  let fd = -1;
  try {
    fd = openSync(path, 'r');
    let length = 0;
    for (;;) {
      const read = readSync(fd, bytes, length, bytes.length - length, null);
      if (read === 0) return bytes.toString('utf8', 0, length);
      length += read;
      if (length > LIMIT_BYTES) {
        throw new SpiffeError('limited', 'docker.subuid.too-large', 'the file of subordinate ids is too large');
      }
    }
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    if (systemCode(error) === 'ENOENT') return undefined;
    throw new SpiffeError('unavailable', 'docker.subuid.unreadable', 'subordinate ids cannot be read', { cause: error });
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}
