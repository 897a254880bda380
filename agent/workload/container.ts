/**
 * Which container a process is in, told by the kernel's cgroup paths alone and only where an engine that is root put the
 * container's id. What the container is, its image and labels, is the attestors' subject; the layouts are `container-layout.ts`.
 *
 * A path proves something as far as its writer does. Groups at the root and in the slices of the system's service manager
 * are made by root; a service may have been given its own subtree (`Delegate=`), a user has `user@UID.service`, and a
 * container's root often has what is below the container. So an id counts where every group above it is of the first sort,
 * counts for the user whose subtree it is in, and is refused anywhere else rather than overlooked.
 */
import type { Peer } from '../../runtime/peer.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { readCgroups, readOwnCgroups } from './cgroup.ts';
import type { CgroupLine } from './cgroup.ts';
import { belowParent, besideUs, candidateOf, candidatesIn, fromRoot, matchLayout } from './container-layout.ts';
import type { ContainerRuntime, Layout } from './container-layout.ts';

export interface ContainerRef {
  /** 64 lower-case hex digits. */
  readonly id: string;
  /** As far as the layout tells: with the cgroupfs driver a pod's container of Docker looks like one of containerd. */
  readonly runtime: ContainerRuntime;
  /** With its dashes; undefined outside of a `kubepods` path. */
  readonly podUid: string | undefined;
  /** The user whose engine may have made it, and who may have made it up; undefined for an engine that is root. */
  readonly ownerUid: number | undefined;
}

/** What attestors ask. */
export interface Containers {
  /** @throws as `readCgroups` and `containerOf` */
  of(peer: Peer): ContainerRef | undefined;
}

export interface ContainersOptions {
  /** As `containerOf` takes them. */
  readonly parents?: readonly string[];
}

/** This program's own groups are read once, here; throws as `readCgroups`. */
export function createContainers(options: ContainersOptions = {}): Containers {
  const own = readOwnCgroups();
  return { of: (peer) => containerOf(readCgroups(peer.pid), own, options.parents) };
}

/**
 * All hierarchies that name a container must name the same one; one without an id says nothing. Whatever the process
 * shares with this program down to the last container is this program's world, not the process's container.
 * @param own the groups of this program
 * @param parents further groups, `/like/this`, below which an engine puts containers (`--cgroup-parent`, `--cgroup-root`,
 * a service of a quadlet): nobody may write there but root. An id counts right below one, or below one's `kubepods`.
 * @returns undefined when the process is in no container, or in the one that this program is in
 * @throws denied `container.ambiguous` for two containers; denied `container.forged` for an id where no engine puts one
 */
export function containerOf(
  lines: readonly CgroupLine[],
  own: readonly CgroupLine[],
  parents: readonly string[] = [],
): ContainerRef | undefined {
  const paths = lines.map((line) => {
    const ours = own.find(({ hierarchy, controllers }) => hierarchy === line.hierarchy && controllers === line.controllers);
    return beyondOwn(line.path, ours?.path ?? '/');
  });
  let found: ContainerRef | undefined;
  for (const path of new Set(paths)) {
    const ref = refOf(path, parents);
    if (ref !== undefined) found = found === undefined ? ref : agreed(found, ref);
  }
  return found === undefined ? undefined : Object.freeze(found);
}

function agreed(a: ContainerRef, b: ContainerRef): ContainerRef {
  const samePod = a.podUid === undefined || b.podUid === undefined || a.podUid === b.podUid;
  if (a.id !== b.id || a.ownerUid !== b.ownerUid || !samePod) throw ambiguous();
  return a.podUid === undefined ? b : a;
}

function ambiguous(): SpiffeError {
  return new SpiffeError('denied', 'container.ambiguous', "the process's control groups name more than one container");
}

function forged(): SpiffeError {
  return new SpiffeError('denied', 'container.forged', 'a container id stands in a control group where no engine puts one');
}

/** The part of a path below the innermost container that this program is in as well. */
function beyondOwn(path: string, own: string): string {
  const theirs = path.split('/');
  const ours = own.split('/');
  let shared = 0;
  for (let at = 1; at < theirs.length && theirs[at] === ours[at]; at += 1) {
    if (candidateOf(theirs[at] ?? '') !== undefined) shared = at;
  }
  return shared === 0 ? path : `/${theirs.slice(shared + 1).join('/')}`;
}

function refOf(path: string, parents: readonly string[]): ContainerRef | undefined {
  if (candidatesIn(path).length === 0) return undefined;
  const [, up = '', outside = ''] = /^((?:\/\.\.)+)(\/.*)$/su.exec(path) ?? [];
  if (outside !== '') return ofUser(outside) ?? ofRoot(outside, besideUs(up.length / '/..'.length));
  const parent = parents.find((one) => path.startsWith(`${one}/`));
  if (parent !== undefined) return ofRoot(path.slice(parent.length), belowParent);
  return ofUser(path) ?? ofRoot(path, fromRoot);
}

/** @param path one with a candidate in it */
function ofRoot(path: string, layouts: readonly Layout[]): ContainerRef {
  const match = matchLayout(path, layouts);
  if (match === undefined) throw distinct(path).size > 1 ? ambiguous() : forged();
  const { below, ...ref } = match;
  // A container's own groups belong to it, unless another container is in them.
  for (const { id } of candidatesIn(below)) if (id !== ref.id) throw ambiguous();
  return { ...ref, ownerUid: undefined };
}

/** @returns undefined for a path that is not in a user's own subtree, where everything is that user's word */
function ofUser(path: string): ContainerRef | undefined {
  const groups = /^\/user\.slice\/user-(?<uid>0|[1-9]\d{0,9})\.slice\/user@\k<uid>\.service(?<below>\/.*)$/su.exec(path)?.groups;
  const ownerUid = Number(groups?.['uid'] ?? Number.NaN);
  if (!(ownerUid < 0xffff_ffff)) return undefined;
  const below = groups?.['below'] ?? '';
  const [candidate] = candidatesIn(below);
  if (candidate === undefined) return undefined;
  if (distinct(below).size > 1) throw ambiguous();
  return { id: candidate.id, runtime: candidate.runtime, podUid: undefined, ownerUid };
}

function distinct(path: string): ReadonlySet<string> {
  return new Set(candidatesIn(path).map(({ id }) => id));
}
