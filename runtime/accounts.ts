/**
 * Users and groups by name or number, as `/etc/passwd` and `/etc/group` have them now. Other sources of names (LDAP,
 * systemd) are not asked: give the number of an account from there.
 */
import { readFile } from 'node:fs/promises';
import { SpiffeError } from '../spiffe/errors.ts';

const largestId = 0xffff_fffe;

/** @throws missing `accounts.user`, unavailable `accounts.unreadable` */
export async function findUser(name: string, file = '/etc/passwd'): Promise<number> {
  const id = await find(name, file);
  const message = `${file} knows no user ${name}; give a number if another source does`;
  if (id === undefined) throw new SpiffeError('missing', 'accounts.user', message);
  return id;
}

/** @throws missing `accounts.group`, unavailable `accounts.unreadable` */
export async function findGroup(name: string, file = '/etc/group'): Promise<number> {
  const id = await find(name, file);
  const message = `${file} knows no group ${name}; give a number if another source does`;
  if (id === undefined) throw new SpiffeError('missing', 'accounts.group', message);
  return id;
}

/** A number is itself; a name is the id in the third field of its first line. */
async function find(name: string, file: string): Promise<number | undefined> {
  if (/^\d{1,10}$/.test(name)) return Number(name) <= largestId ? Number(name) : undefined;
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    throw new SpiffeError('unavailable', 'accounts.unreadable', `${file} cannot be read`, { cause });
  }
  for (const line of text.split('\n')) {
    const [first, , id = ''] = line.split(':', 3);
    if (first === name && name !== '' && /^\d{1,10}$/.test(id) && Number(id) <= largestId) return Number(id);
  }
  return undefined;
}
