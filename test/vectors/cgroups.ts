/**
 * Layouts of `/proc/PID/cgroup`, honest and forged, each with the container it names: those that engines write on their
 * cgroup drivers and cgroup versions, and those that somebody with a group of their own could write instead.
 */

/** Container ids, pods of Podman and pods of Kubernetes; nobody's. */
export const ids = {
  a: 'a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0fedcba9876543210',
  b: 'b0c1d2e3f4051627384950617283940fa5b6c7d8e9f0011223344556677889ab',
  pod: '5f0e1d2c3b4a59687786958493a2b1c0decafbad0123456789abcdef00112233',
  uid: '2c48913c-b29f-11e7-9350-020968147796',
  uid2: '9a7b6c5d-1e2f-4a3b-8c9d-0e1f2a3b4c5d',
  digest: '99dcb84d2a34f7e338778606703258c4',
} as const;

const { a, b, pod, uid, uid2, digest } = ids;
const flat = uid.replaceAll('-', '_');
const flat2 = uid2.replaceAll('-', '_');

export interface CgroupVector {
  readonly name: string;
  /** Of the process: the file's text. */
  readonly text: string;
  /** Of whoever reads it; at the root unless it says otherwise. */
  readonly own: string;
  /** Configured parents. */
  readonly parents: readonly string[];
  readonly expected:
    | undefined
    | { readonly id: string; readonly runtime: string; readonly podUid: string | undefined; readonly ownerUid: number | undefined }
    | 'container.ambiguous'
    | 'container.forged';
}

type Expected = CgroupVector['expected'];

interface More {
  readonly own?: string;
  readonly parents?: readonly string[];
}

const is = (runtime: string, podUid?: string, id: string = a): Expected => ({ id, runtime, podUid, ownerUid: undefined });
const ofUser = (ownerUid: number, runtime: string, id: string = a): Expected => ({ id, runtime, podUid: undefined, ownerUid });
const ambiguous = 'container.ambiguous' as const;
const forged = 'container.forged' as const;

/** cgroup v2 alone. */
function v2(path: string): string {
  return `0::${path}\n`;
}

/** cgroup v1: the same path in every hierarchy. */
function v1(path: string, systemd: string = path): string {
  const controllers = ['pids', 'net_cls,net_prio', 'perf_event', 'blkio', 'memory', 'cpuset', 'freezer', 'cpu,cpuacct', 'devices'];
  const lines = controllers.map((names, at) => `${String(controllers.length + 1 - at)}:${names}:${path}`);
  return `${[...lines, `1:name=systemd:${systemd}`].join('\n')}\n`;
}

/** Both, each with a path of its own. */
function hybrid(one: string, two: string): string {
  return `${v1(one)}0::${two}\n`;
}

function row(name: string, text: string, expected: Expected, more: More = {}): CgroupVector {
  const own = more.own ?? text.replaceAll(/:\/.*$/gmu, ':/');
  return { name, text, own, parents: more.parents ?? [], expected };
}

const user = '/user.slice/user-1000.slice/user@1000.service';
const pods = '/kubepods.slice/kubepods-burstable.slice';
const kindNode = `/docker/${b}`;
const kindSlices = '/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice';

const nothing: readonly CgroupVector[] = [
  row('the root', v2('/'), undefined),
  row('the root, v1', v1('/'), undefined),
  row('a service', v2('/system.slice/nginx.service'), undefined),
  row('a service, hybrid', hybrid('/', '/system.slice/nginx.service'), undefined),
  row('a login session', v2('/user.slice/user-1000.slice/session-3.scope'), undefined),
  row("a user's service", v2(`${user}/app.slice/dbus.service`), undefined),
  row('a desktop application whose name has hex digits', v2(`${user}/app.slice/app-gnome-firefox-${a.slice(0, 32)}.scope`), undefined),
  row('the engine itself', v2('/system.slice/docker.service'), undefined),
  row('containerd and its shims', v2('/system.slice/containerd.service'), undefined),
  row('the kubelet', v2('/system.slice/kubelet.service'), undefined),
  row('a pod without its container', v2(`${pods}/kubepods-burstable-pod${flat}.slice`), undefined),
  row('the monitor of a container, libpod', v2(`/machine.slice/libpod-conmon-${a}.scope`), undefined),
  row('the monitor of a container, libpod with cgroupfs', v2(`/libpod_parent/conmon`), undefined),
  row('the monitor of a container, CRI-O', v2(`/system.slice/crio-conmon-${a}.scope`), undefined),
  row('the monitor of a container, CRI-O in the pod', v1(`/kubepods/burstable/pod${uid}/crio-conmon-${a}`), undefined),
  row('63 digits', v2(`/docker/${a.slice(1)}`), undefined),
  row('65 digits', v2(`/docker/${a}0`), undefined),
  row('upper-case digits', v2(`/docker/${a.toUpperCase()}`), undefined),
  row('an id with a tail', v2(`/system.slice/docker-${a}.scope.d`), undefined),
  row('an id behind a prefix of no engine', v2(`/system.slice/build-${a}.scope`), undefined),
  row("a digest for a scope's name", v2(`/system.slice/${a}.scope`), undefined),
  row('an id without a container in the name of a slice', v2(`/docker-${a}.slice`), undefined),
  row('a group of a sandbox with 32 digits', v1(`/process_api/${a.slice(0, 32)}`), undefined),
  row('a container of ctr with a name of its own', v2('/default/web-1'), undefined),
  row('an LXC container', v2('/lxc.payload.web/system.slice/nginx.service'), undefined),
  row('an nspawn machine', v2('/machine.slice/systemd-nspawn@web.service/payload'), undefined),
  row('the virtual machine of a Kata sandbox', v2(`${pods}/kubepods-burstable-pod${flat}.slice/kata_${a}`), undefined),
  row('a build of BuildKit in Docker', v2('/docker/buildkit/k3yb1nolxc8wuhz4s9yzdcq2k'), undefined),
];

const docker: readonly CgroupVector[] = [
  row('Docker, cgroupfs, v1', v1(`/docker/${a}`), is('docker')),
  row('Docker, cgroupfs, v2', v2(`/docker/${a}`), is('docker')),
  row('Docker, cgroupfs, hybrid', hybrid(`/docker/${a}`, `/docker/${a}`), is('docker')),
  row('Docker, cgroupfs, hybrid, v2 alone', hybrid('/', `/docker/${a}`), is('docker')),
  row('Docker, cgroupfs, hybrid, v1 alone', hybrid(`/docker/${a}`, '/system.slice/containerd.service'), is('docker')),
  row('Docker, systemd, v1', v1(`/system.slice/docker-${a}.scope`), is('docker')),
  row('Docker, systemd, v2', v2(`/system.slice/docker-${a}.scope`), is('docker')),
  row('Docker, systemd, in a slice of its own', v2(`/web.slice/docker-${a}.scope`), is('docker')),
  row('Docker, systemd, in a nested slice', v2(`/web.slice/web-front.slice/docker-${a}.scope`), is('docker')),
  row('Docker, systemd inside the container', v2(`/docker/${a}/init.scope`), is('docker')),
  row('Docker, a service inside the container', v1(`/docker/${a}/system.slice/nginx.service`), is('docker')),
  row('Docker, a scope of a user inside the container', v2(`/system.slice/docker-${a}.scope/user.slice/user-0.slice`), is('docker')),
  row('Docker, its own id once more inside', v2(`/docker/${a}/docker/${a}`), is('docker')),
  row('Docker, a monitor of another inside', v2(`/docker/${a}/machine.slice/libpod-conmon-${b}.scope`), is('docker')),
  row('Docker, a colon in a group of the container', v2(`/docker/${a}/a:b:c`), is('docker')),
  row('Docker, bytes that are no text in a group of the container', v2(`/docker/${a}/\uFFFD`), is('docker')),
  row('Docker, GitHub Actions', v1(`/actions_job/${a}`), is('docker')),
  row('Docker, Azure Pipelines', v1(`/azpl_job/${a}`), is('docker')),
  row('Docker, ECS', v1(`/ecs/${digest}/${a}`), is('docker')),
  row('Docker, ECS, with a cluster', v1(`/ecs/my-cluster/${uid}/${a}`), is('docker')),
  row('Docker, ECS, systemd', v2(`/ecstasks.slice/ecstasks-${digest}.slice/docker-${a}.scope`), is('docker')),
  row('Docker, cgroupfs, in a group that is configured', v1(`/mygroup/sub/${a}`), is('docker'), { parents: ['/mygroup/sub'] }),
];

const podman: readonly CgroupVector[] = [
  row('Podman, cgroupfs, v1', v1(`/libpod_parent/libpod-${a}`), is('libpod')),
  row('Podman, cgroupfs, v2', v2(`/libpod_parent/libpod-${a}`), is('libpod')),
  row('Podman, cgroupfs, in a pod', v2(`/libpod_parent/${pod}/libpod-${a}`), is('libpod')),
  row('Podman, systemd', v2(`/machine.slice/libpod-${a}.scope`), is('libpod')),
  row('Podman, systemd, crun', v2(`/machine.slice/libpod-${a}.scope/container`), is('libpod')),
  row('Podman, systemd inside', v2(`/machine.slice/libpod-${a}.scope/container/system.slice/nginx.service`), is('libpod')),
  row('Podman, systemd, in a pod', v2(`/machine.slice/machine-libpod_pod_${pod}.slice/libpod-${a}.scope/container`), is('libpod')),
  row('Podman, hybrid', hybrid(`/machine.slice/libpod-${a}.scope`, '/system.slice/podman.service'), is('libpod')),
  row('Podman, a quadlet of a configured service', v2(`/system.slice/nginx.service/libpod-payload-${a}`), is('libpod'), {
    parents: ['/system.slice/nginx.service'],
  }),
  row('rootless Podman', v2(`${user}/user.slice/libpod-${a}.scope`), ofUser(1000, 'libpod')),
  row('rootless Podman, crun', v2(`${user}/user.slice/libpod-${a}.scope/container`), ofUser(1000, 'libpod')),
  row('rootless Podman, a quadlet', v2(`${user}/app.slice/redis.service/libpod-payload-${a}`), ofUser(1000, 'libpod')),
  row('rootless Podman, in a pod', v2(`${user}/user.slice/user-libpod_pod_${pod}.slice/libpod-${a}.scope`), ofUser(1000, 'libpod')),
  row('rootless Podman, cgroupfs in a pod', v2(`${user}/libpod_parent/${pod}/libpod-${a}`), ofUser(1000, 'libpod')),
  row('rootless Podman, a group for all', v2(`${user}/user.slice/libpod/${a}`), ofUser(1000, 'libpod')),
  row('rootless Podman, v1, where only systemd is delegated', v1('/user.slice', `${user}/user.slice/libpod-${a}.scope`), ofUser(1000, 'libpod')),
  row('rootless Docker, systemd', v2(`${user}/user.slice/docker-${a}.scope`), ofUser(1000, 'docker')),
  row('rootless Docker, cgroupfs', v2(`${user}/app.slice/docker.service/docker/${a}`), ofUser(1000, 'docker')),
  row("root's own session", v2(`/user.slice/user-0.slice/user@0.service/user.slice/libpod-${a}.scope`), ofUser(0, 'libpod')),
  row('the largest user', v2(`/user.slice/user-4294967294.slice/user@4294967294.service/libpod-${a}.scope`), ofUser(4294967294, 'libpod')),
  row('a rootful name in a subtree of a user counts for the user', v2(`${user}/docker/${a}`), ofUser(1000, 'docker')),
  row('a pod in a subtree of a user is no pod', v2(`${user}${pods}/kubepods-burstable-pod${flat}.slice/cri-containerd-${a}.scope`), ofUser(1000, 'containerd')),
];

const kubernetes: readonly CgroupVector[] = [
  row('a pod, cgroupfs, burstable, v1', v1(`/kubepods/burstable/pod${uid}/${a}`), is('containerd', uid)),
  row('a pod, cgroupfs, best effort', v1(`/kubepods/besteffort/pod${uid}/${a}`), is('containerd', uid)),
  row('a pod, cgroupfs, guaranteed', v2(`/kubepods/pod${uid}/${a}`), is('containerd', uid)),
  row('a static pod, cgroupfs', v1(`/kubepods/burstable/pod${digest}/${a}`), is('containerd', digest)),
  row('a pod, cgroupfs, a prefix', v1(`/kubepods/burstable/pod${uid}/cri-containerd-${a}`), is('containerd', uid)),
  row('a pod, systemd, burstable', v2(`${pods}/kubepods-burstable-pod${flat}.slice/cri-containerd-${a}.scope`), is('containerd', uid)),
  row('a pod, systemd, guaranteed', v2(`/kubepods.slice/kubepods-pod${flat}.slice/cri-containerd-${a}.scope`), is('containerd', uid)),
  row('a static pod, systemd', v2(`${pods}/kubepods-burstable-pod${digest}.slice/cri-containerd-${a}.scope`), is('containerd', digest)),
  row('a pod, systemd, dashes in the uid', v1(`${pods}/kubepods-burstable-pod${uid}.slice/docker-${a}.scope`), is('docker', uid)),
  row('a pod of Docker, systemd', v2(`${pods}/kubepods-burstable-pod${flat}.slice/docker-${a}.scope`), is('docker', uid)),
  row('a pod of CRI-O, systemd', v2(`${pods}/kubepods-burstable-pod${flat}.slice/crio-${a}.scope`), is('crio', uid)),
  row('a pod of CRI-O, crun', v2(`${pods}/kubepods-burstable-pod${flat}.slice/crio-${a}.scope/container`), is('crio', uid)),
  row('a pod of CRI-O, cgroupfs', v1(`/kubepods/burstable/pod${uid}/crio-${a}`), is('crio', uid)),
  row('a pod of CRI-O, v1, systemd unlike the rest', v1(`${pods}/kubepods-burstable-pod${flat}.slice/crio-${a}.scope`, '/'), is('crio', uid)),
  row('a systemd name, cgroupfs, in containerd', v1(`/system.slice/containerd.service/kubepods-burstable-pod${flat}.slice:cri-containerd:${a}`), is('containerd', uid)),
  row('a systemd name, cgroupfs, at the root', v1(`/kubepods-besteffort-pod${flat}.slice:cri-containerd:${a}`), is('containerd', uid)),
  row(
    'a systemd name, cgroupfs, one hierarchy at the root',
    v1(`/kubepods-pod${flat}.slice:cri-containerd:${a}`, `/system.slice/containerd.service/kubepods-pod${flat}.slice:cri-containerd:${a}`),
    is('containerd', uid),
  ),
  row('a systemd name, cgroupfs, Talos', v1(`/podruntime.slice/containerd.service/kubepods-burstable-pod${flat}.slice:cri-containerd:${a}`), is('containerd', uid)),
  row('a systemd name, cgroupfs, k3s', v1(`/system.slice/k3s.service/kubepods-burstable-pod${flat}.slice:cri-containerd:${a}`), is('containerd', uid)),
  row('containerd without a pod', v2(`/k8s.io/${a}`), is('containerd')),
  row('nerdctl, cgroupfs', v2(`/default/${a}`), is('containerd')),
  row('nerdctl, systemd', v2(`/system.slice/nerdctl-${a}.scope`), is('containerd')),
  row('a kubelet with a group of its own, cgroupfs', v1(`/kubelet/kubepods/burstable/pod${uid}/${a}`), is('containerd', uid)),
  row('a kubelet with a group of its own, systemd', v2(`${kindSlices}/kubelet-kubepods-besteffort-pod${flat}.slice/cri-containerd-${a}.scope`), is('containerd', uid)),
  row('a kubelet with a configured group, cgroupfs', v1(`/fleet/kubepods/pod${uid}/${a}`), is('containerd', uid), { parents: ['/fleet'] }),
  row('hybrid, the pod on one side', `${v1(`/kubepods/burstable/pod${uid}/${a}`)}0::/k8s.io/${a}\n`, is('containerd', uid)),
];

const nested: readonly CgroupVector[] = [
  row('kind, from the outer host', v1(`${kindNode}/kubelet/kubepods/pod${uid}/${a}`), ambiguous),
  row('kind, from the node', v1(`${kindNode}/kubelet/kubepods/pod${uid}/${a}`), is('containerd', uid), { own: v1(`${kindNode}/system.slice/agent.service`) }),
  row('kind, from a pod of the node', v1(`${kindNode}/kubelet/kubepods/pod${uid}/${a}`), is('containerd', uid), {
    own: v1(`${kindNode}/kubelet/kubepods/besteffort/pod${uid2}/${ids.pod}`),
  }),
  row('kind, from the node, v2 says the node alone', `${v1(`${kindNode}/kubepods/besteffort/pod${uid}/${a}`)}0::${kindNode}/system.slice/containerd.service\n`, is('containerd', uid), {
    own: `${v1(`${kindNode}/kubepods/besteffort/pod${uid2}/${ids.pod}`)}0::${kindNode}/system.slice/containerd.service\n`,
  }),
  row('kind, from the outer host, v2 says the node alone', `${v1(`${kindNode}/kubepods/besteffort/pod${uid}/${a}`)}0::${kindNode}/system.slice/containerd.service\n`, ambiguous),
  row('kind, systemd, from the node', v2(`/system.slice/docker-${b}.scope${kindSlices}/kubelet-kubepods-besteffort-pod${flat}.slice/cri-containerd-${a}.scope`), is('containerd', uid), {
    own: v2(`/system.slice/docker-${b}.scope/system.slice/agent.service`),
  }),
  row('a process of the node, from the node', v1(`${kindNode}/system.slice/kubelet.service`), undefined, { own: v1(`${kindNode}/system.slice/agent.service`) }),
  row('a process of the node, from the outer host', v1(`${kindNode}/system.slice/kubelet.service`), is('docker', undefined, b)),
  row('Docker in Docker, from the outer host', v2(`/docker/${b}/docker/${a}`), ambiguous),
  row('Docker in Docker, from the outer container', v2(`/docker/${b}/docker/${a}`), is('docker'), { own: v2(`/docker/${b}/init`) }),
  row('Podman in Docker, from the outer host', v2(`/docker/${b}/machine.slice/libpod-${a}.scope`), ambiguous),
  row('Docker in a pod, from the outer host', v2(`${pods}/kubepods-burstable-pod${flat}.slice/cri-containerd-${b}.scope/docker/${a}`), ambiguous),
  row('the agent’s own container', v2(`/docker/${a}`), undefined, { own: v2(`/docker/${a}`) }),
  row('beside the agent in its pod', v1(`/kubepods/pod${uid}/${a}`), is('containerd', uid), { own: v1(`/kubepods/pod${uid}/${b}`) }),
  row('three deep, from the middle', v2(`/docker/${b}/docker/${ids.pod}/docker/${a}`), ambiguous, { own: v2(`/docker/${b}/init`) }),
];

/** As a reader in a container sees them that has a cgroup namespace of its own. */
const namespaced: readonly CgroupVector[] = [
  row('beside us: Docker, systemd', v2(`/../docker-${a}.scope`), is('docker')),
  row('beside us: Docker, cgroupfs', v2(`/../${a}`), is('docker')),
  row('beside us: CRI-O in our pod', v2(`/../crio-${a}.scope`), is('crio')),
  row('beside us: Podman, cgroupfs', v2(`/../libpod-${a}`), is('libpod')),
  row('another pod, systemd', v2(`/../../kubepods-burstable-pod${flat}.slice/cri-containerd-${a}.scope`), is('containerd', uid)),
  row('another pod, systemd, other class', v2(`/../../../kubepods-besteffort.slice/kubepods-besteffort-pod${flat}.slice/cri-containerd-${a}.scope`), is('containerd', uid)),
  row('another pod, cgroupfs', v2(`/../../pod${uid}/${a}`), is('containerd', uid)),
  row('another pod, cgroupfs, other class', v2(`/../../../besteffort/pod${uid}/${a}`), is('containerd', uid)),
  row('another pod, kind', v2(`/../../../kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod${flat}.slice/cri-containerd-${a}.scope`), is('containerd', uid)),
  row('another engine, from the root', v2(`/../../../../system.slice/docker-${a}.scope`), is('docker')),
  row('a user’s container', v2(`/../../user.slice/user-1000.slice/user@1000.service/user.slice/libpod-${a}.scope`), ofUser(1000, 'libpod')),
  row('a service outside', v2('/../../system.slice/nginx.service'), undefined),
  row('inside of us', v2(`/docker/${a}`), is('docker')),
  row('beside us: a container made by one beside us', v2(`/../${b}/docker/${a}`), ambiguous),
  row('beside us: a name of Podman made by a container beside us', v2(`/../${b}/libpod-${a}`), ambiguous),
  row('a bare id further away', v2(`/../../${a}`), forged),
  row('a service outside with a group of its own', v2(`/../../system.slice/evil.service/docker-${a}.scope`), forged),
  row('a service beside us with a group of its own', v2(`/../evil.service/docker-${a}.scope`), forged),
  row('a user’s manager beside us', v2(`/../user@1000.service/libpod-${a}.scope`), forged),
];

const forgeries: readonly CgroupVector[] = [
  row('a service with a delegated group, Docker', v2(`/system.slice/evil.service/docker/${a}`), forged),
  row('a service with a delegated group, systemd', v2(`/system.slice/evil.service/system.slice/docker-${a}.scope`), forged),
  row('a service with a delegated group, bare', v2(`/system.slice/evil.service/${a}`), forged),
  row('a service with a delegated group, a pod', v2(`/system.slice/evil.service/kubepods/burstable/pod${uid}/${a}`), forged),
  row('a service with a delegated group, a pod of systemd', v2(`/system.slice/evil.service/kubepods-burstable-pod${flat}.slice:cri-containerd:${a}`), forged),
  row('a service with a name that ends like containerd', v2(`/system.slice/not-containerd.service/kubepods-burstable-pod${flat}.slice:cri-containerd:${a}`), forged),
  row('a service with a delegated group, Podman', v2(`/system.slice/evil.service/libpod-payload-${a}`), forged),
  row('a scope with a delegated group', v2(`/system.slice/run-r42.scope/docker-${a}.scope`), forged),
  row('a session', v2(`/user.slice/user-1000.slice/session-2.scope/docker-${a}.scope`), forged),
  row('a slice of users', v2(`/user.slice/docker-${a}.scope`), forged),
  row('a slice of one user', v2(`/user.slice/user-1000.slice/docker-${a}.scope`), forged),
  row('another user’s manager in a user’s slice', v2(`/user.slice/user-1000.slice/user@0.service/docker-${a}.scope`), forged),
  row('a user that cannot be', v2(`/user.slice/user-4294967295.slice/user@4294967295.service/libpod-${a}.scope`), forged),
  row('a user beyond 32 bits', v2(`/user.slice/user-4294967296.slice/user@4294967296.service/libpod-${a}.scope`), forged),
  row('a user with a leading zero', v2(`/user.slice/user-01000.slice/user@01000.service/libpod-${a}.scope`), forged),
  row('a user’s manager at the root', v2(`/user@1000.service/libpod-${a}.scope`), forged),
  row('a slice that is in no slice of its name', v2(`/web.slice/kubepods-burstable-pod${flat}.slice/cri-containerd-${a}.scope`), forged),
  row('a nested slice at the root', v2(`/kubepods-burstable-pod${flat}.slice/cri-containerd-${a}.scope`), forged),
  row('an unknown group at the root', v1(`/mygroup/${a}`), forged),
  row('at the root itself', v1(`/${a}`), forged),
  row('at the root itself, with a name', v2(`/docker-${a}.scope`), forged),
  row('below a configured group, not in it', v1(`/mygroup/sub/${a}`), forged, { parents: ['/mygroup'] }),
  row('beside a configured group with a longer name', v1(`/mygroup2/${a}`), forged, { parents: ['/mygroup'] }),
  row('an LXC container’s root', v2(`/lxc.payload.web/docker/${a}`), forged),
  row('an LXC container’s root, systemd', v2(`/lxc/web/system.slice/docker-${a}.scope`), forged),
  row('an nspawn machine’s root', v2(`/machine.slice/systemd-nspawn@web.service/payload/system.slice/docker-${a}.scope`), forged),
  row('a machine’s root', v2(`/machine.slice/machine-web.scope/docker-${a}.scope`), forged),
  row('a QEMU machine’s group', v2(`/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/docker/${a}`), forged),
  row('a pod’s group without a container', v1(`/kubepods/burstable/pod${uid}/x/${a}`), forged),
  row('a pod with a uid of no form', v1(`/kubepods/burstable/pod../${a}`), forged),
  row('a class that there is not', v1(`/kubepods/best/pod${uid}/${a}`), forged),
  row('a build of a pod’s name', v1(`/kubepods/burstable/build/pod${uid}/${a}`), forged),
  row('ECS without a task', v1(`/ecs/${a}`), forged),
  row('ECS with a task of no form', v1(`/ecs/x/y/${a}`), forged),
  row('the ending of a deleted group', v2(`/docker (deleted)/${a}`), forged),
  row('Kata’s overhead group', v2(`/kata_overhead/${a}`), forged),
];

const contradictions: readonly CgroupVector[] = [
  row('two hierarchies, two containers', hybrid(`/docker/${a}`, `/docker/${b}`), ambiguous),
  row('two hierarchies, an engine and a user', hybrid(`/docker/${a}`, `${user}/docker/${a}`), ambiguous),
  row('two hierarchies, two users', hybrid(`${user}/docker/${a}`, `/user.slice/user-1001.slice/user@1001.service/docker/${a}`), ambiguous),
  row('two hierarchies, two pods', hybrid(`/kubepods/pod${uid}/${a}`, `/kubepods/pod${uid2}/${a}`), ambiguous),
  row('two hierarchies, one in a delegated group', hybrid(`/docker/${a}`, `/system.slice/evil.service/docker-${a}.scope`), forged),
  row('two hierarchies, only systemd’s is forged', v1('/system.slice/evil.service', `/system.slice/evil.service/docker/${a}`), forged),
  row('one path, a victim below an attacker', v2(`/docker/${b}/docker-${a}.scope`), ambiguous),
  row('one path, a victim far below an attacker', v2(`/docker/${b}/x/y/z/system.slice/docker-${a}.scope/t`), ambiguous),
  row('one path, a pod below an attacker', v2(`/docker/${b}/kubepods/pod${uid}/${a}`), ambiguous),
  row('one path, a victim’s name before a real one', v2(`/docker/${a}/${b}`), ambiguous),
  row('one path, a pod’s container below another', v2(`${pods}/kubepods-burstable-pod${flat}.slice/cri-containerd-${b}.scope${pods}/kubepods-burstable-pod${flat2}.slice/cri-containerd-${a}.scope`), ambiguous),
  row('one path, in a user’s subtree', v2(`${user}/user.slice/libpod-${b}.scope/libpod-${a}.scope`), ambiguous),
  row('one path, in a delegated group', v2(`/system.slice/evil.service/docker-${b}.scope/docker-${a}.scope`), ambiguous),
  row('one path, a colon form below', v2(`/docker/${b}/x:cri-containerd:${a}`), ambiguous),
];

export const cgroupVectors: readonly CgroupVector[] = [
  ...nothing,
  ...docker,
  ...podman,
  ...kubernetes,
  ...nested,
  ...namespaced,
  ...forgeries,
  ...contradictions,
];
