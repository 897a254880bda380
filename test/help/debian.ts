/**
 * Programs of Debian's packages that tests run on ports and data of their own, as the unprivileged users that the packages
 * made. Where they are absent tests skip and say so, but in CI their absence is a failure.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

export interface Account {
  readonly uid: number;
  readonly gid: number;
}

/** Why a test is skipped; `undefined` when it is not. */
export function withoutPrograms(programs: readonly string[], users: readonly string[]): string | undefined {
  if (process.env['CI'] !== undefined) return undefined;
  if (process.geteuid?.() !== 0) return 'skipped: runs programs as their own users, which needs root';
  const absent = [...programs.filter((program) => !existsSync(program)), ...users.filter((user) => idOf('-u', user) === undefined)];
  return absent.length === 0 ? undefined : `skipped: not here: ${absent.join(', ')}`;
}

export function account(user: string): Account {
  const [uid, gid] = [idOf('-u', user), idOf('-g', user)];
  if (uid === undefined || gid === undefined) throw new Error(`there is no user ${user}`);
  return { uid, gid };
}

function idOf(flag: string, user: string): number | undefined {
  const { status, stdout } = spawnSync('id', [flag, user], { encoding: 'utf8' });
  return status === 0 ? Number(stdout) : undefined;
}
