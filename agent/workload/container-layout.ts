/**
 * Where engines put a container's control group, by engine and cgroup driver, as anchored patterns. Which part of a path is
 * to be matched, and what a mismatch means, is left to `container.ts`.
 */
export type ContainerRuntime = 'docker' | 'libpod' | 'containerd' | 'crio';

export interface Layout {
  readonly pattern: RegExp;
  /** Unless the pattern has an `engine`. */
  readonly runtime: ContainerRuntime;
  /** The first slice is one at the root. */
  readonly rooted: boolean;
}

export interface Candidate {
  /** 64 lower-case hex digits. */
  readonly id: string;
  readonly runtime: ContainerRuntime;
}

export interface LayoutMatch extends Candidate {
  /** With its dashes; undefined outside of a `kubepods` path. */
  readonly podUid: string | undefined;
  /** What of the path is inside the container; `''` or begins with a slash. */
  readonly below: string;
}

/** What engines write before an id. A `libpod-conmon-` or `crio-conmon-` is no container but the monitor of one. */
const runtimes: Readonly<Record<string, ContainerRuntime>> = {
  docker: 'docker',
  libpod: 'libpod',
  'libpod-payload': 'libpod',
  'cri-containerd': 'containerd',
  nerdctl: 'containerd',
  crio: 'crio',
};

const engine = `(?<engine>${Object.keys(runtimes).join('|')})`;
const id = '(?<id>[0-9a-f]{64})';
const hex32 = '[0-9a-f]{32}';
const uuid = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}';
/** In the name of a slice, where a dash would mean another slice, with underscores; a static pod's is a digest. */
const pod = `pod(?<pod>${uuid}|${uuid.replaceAll('-[', '_[')}|${hex32})`;
const podSlice = String.raw`(?:[^/:]+-)?kubepods(?:-burstable|-besteffort)?-${pod}\.slice`;
const inPod = `(?:burstable/|besteffort/)?${pod}/(?:${engine}-)?${id}`;
const scope = String.raw`${engine}-${id}\.scope`;

function layout(runtime: ContainerRuntime, pattern: string, rooted = true): Layout {
  return { pattern: new RegExp(`^/${pattern}(?<below>/.*)?$`, 'su'), runtime, rooted };
}

/** From the root, where only root makes groups. */
export const fromRoot: readonly Layout[] = [
  // Docker with the cgroupfs driver; the others are what two CI services give it for a parent.
  layout('docker', `(?:docker|actions_job|azpl_job)/${id}`),
  // Amazon ECS: cluster, task, container.
  layout('docker', String.raw`ecs/(?:[\w-]+/)?(?:${hex32}|${uuid})/${id}`),
  // Podman with the cgroupfs driver, alone or in a pod of Podman's.
  layout('libpod', `libpod_parent/(?:[0-9a-f]{64}/)?libpod-${id}`),
  // containerd's own names for the kubelet's containers and for those of nerdctl.
  layout('containerd', String.raw`(?:k8s\.io|default)/${id}`),
  // The kubelet with the cgroupfs driver; below /kubelet when it runs in a container (kind).
  layout('containerd', `(?:kubelet/)?kubepods/${inPod}`),
  // A systemd name given to a runtime that uses cgroupfs.
  layout('containerd', String.raw`(?:[^/]+\.slice/(?:containerd|k3s|k3s-agent|rke2-server|rke2-agent)\.service/)?${podSlice}:${engine}:${id}`),
  // The systemd driver of every engine, in slices of any name.
  layout('docker', String.raw`(?<slices>(?:[^/]+\.slice/)+)${scope}`),
];

/** From a group that root made, with what is above it unknown or not looked at. */
const fromWithin: readonly Layout[] = [
  ...fromRoot,
  layout('containerd', `(?:kubepods/)?${inPod}`),
  // Without the pod in between: a bare id there may as well be somebody's container.
  layout('libpod', `libpod-(?:payload-)?${id}`),
  layout('crio', `crio-${id}`),
  layout('docker', String.raw`(?<slices>(?:[^/]+\.slice/)*)${scope}`, false),
];

const bare = layout('docker', id);

/** Below a configured parent. */
export const belowParent: readonly Layout[] = [...fromWithin, bare];

/**
 * Outside of the cgroup namespace this program is in: what is named relative to an ancestor of ours. An id without a name
 * counts only right beside our own group, where the engine that made ours puts its containers.
 */
export function besideUs(levelsUp: number): readonly Layout[] {
  return levelsUp === 1 ? belowParent : fromWithin;
}

export function matchLayout(path: string, layouts: readonly Layout[]): LayoutMatch | undefined {
  for (const { pattern, runtime, rooted } of layouts) {
    const groups = pattern.exec(path)?.groups;
    if (groups === undefined) continue;
    const { id: found = '', engine: by = '', slices = '', below = '' } = groups;
    if (!inSystemSlices(slices, rooted)) continue;
    const podUid = groups['pod'] ?? new RegExp(`(?:^|/)${podSlice}/$`, 'u').exec(slices)?.groups?.['pod'];
    return { id: found, runtime: runtimes[by] ?? runtime, podUid: podUid?.replaceAll('_', '-'), below };
  }
  return undefined;
}

/**
 * Slices of the system's service manager, which never hands one over to a user: each is named for the one it is in. Below
 * `user.slice` are people's sessions, where no engine of root's has a place.
 */
function inSystemSlices(slices: string, rooted: boolean): boolean {
  const names = slices.split('/').slice(0, -1).map((name) => name.slice(0, -'.slice'.length));
  const [first = 'system'] = names;
  if (first === 'user' || first.startsWith('user-') || (rooted && first.includes('-'))) return false;
  return names.every((name, at) => at === 0 || name.startsWith(`${names[at - 1] ?? ''}-`));
}

const named = new RegExp(String.raw`^(?:[^:]+:${engine}:|${engine.replace('engine', 'prefix')}-|)${id}(?<scope>\.scope)?$`, 'u');

/** Whether a group has the name that some engine gives to a container's, wherever it stands. */
export function candidateOf(name: string): Candidate | undefined {
  const groups = named.exec(name)?.groups;
  if (groups === undefined) return undefined;
  const by = groups['engine'] ?? groups['prefix'];
  // Some service's scope, whose name is a digest.
  if (by === undefined && groups['scope'] !== undefined) return undefined;
  return { id: groups['id'] ?? '', runtime: runtimes[by ?? ''] ?? 'docker' };
}

/** All groups along a path that have a container's name; Podman's pods have one too, and are left out. */
export function candidatesIn(path: string): readonly Candidate[] {
  const names = path.split('/');
  return names.flatMap((name, at) => {
    const candidate = candidateOf(name);
    if (candidate === undefined) return [];
    const isPod = names[at - 1] === 'libpod_parent' && (names[at + 1] ?? '').startsWith('libpod-');
    if (isPod) return [];
    return [names[at - 1] === 'libpod' ? { ...candidate, runtime: 'libpod' as const } : candidate];
  });
}
