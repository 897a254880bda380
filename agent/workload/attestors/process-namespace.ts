/**
 * The namespaces a process is in, and which of them are the host's. What a process may do there is left to others.
 */
import { malformed, readProcessLink } from './process-file.ts';

export const namespaceKinds = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'time', 'user', 'uts'] as const;

export type NamespaceKind = (typeof namespaceKinds)[number];

export interface Namespaces {
  /**
   * The inode number of the process's namespace, in decimal. The kernel gives a number again once its namespace is gone.
   * @throws unavailable `process.gone|hidden`; internal `process.form`
   */
  of(pid: number, kind: NamespaceKind): string;
  /** Of process 1 as this program sees it, of this program itself where process 1 is hidden; `''` if neither can be told. */
  host(kind: NamespaceKind): string;
  /** Throws as `of`. */
  isHost(pid: number, kind: NamespaceKind): boolean;
}

/** The host's are looked up once, here. */
export function createNamespaces(): Namespaces {
  const hosts = new Map(namespaceKinds.map((kind) => [kind, firstOf([1, 'self'], kind)]));
  const host = (kind: NamespaceKind): string => hosts.get(kind) ?? '';
  return { of: namespaceOf, host, isHost: (pid, kind) => namespaceOf(pid, kind) === host(kind) };
}

function firstOf(pids: readonly (number | 'self')[], kind: NamespaceKind): string {
  for (const pid of pids) {
    try {
      return namespaceOf(pid, kind);
    } catch {
      continue;
    }
  }
  return '';
}

function namespaceOf(pid: number | 'self', kind: NamespaceKind): string {
  const inode = /^[a-z]+:\[(\d+)\]$/.exec(readProcessLink(pid, `ns/${kind}`).toString('latin1'))?.[1];
  if (inode === undefined) throw malformed();
  return inode;
}
