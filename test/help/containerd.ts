/**
 * A real containerd with its CRI plugin, on directories and a socket of its own, and pods made through the CRI: no kubelet,
 * no network plugin, no registry. What the pods run, and what is to be seen of them, is the test's.
 *
 * Works as root without CAP_SYS_RESOURCE and below hybrid control groups: `restrict_oom_score_adj`, runc with the cgroupfs
 * driver, pods in the node's network namespace, a sandbox image that is imported. Everything else is Debian's default.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerStatus__Output } from '../../proto/gen/runtime/v1/ContainerStatus.ts';
import type { PodSandboxConfig } from '../../proto/gen/runtime/v1/PodSandboxConfig.ts';
import { loadServices } from '../../proto/load.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createRpcClient } from '../../runtime/rpc/call.ts';
import { parseLine } from './running.ts';
import type { OutputLine } from './running.ts';

/** Why tests that need containerd are skipped; `undefined` when they are not, as in CI. */
export const withoutContainerd: string | undefined = ((): string | undefined => {
  if (process.env['CI'] !== undefined) return undefined;
  if (process.getuid?.() !== 0) return 'skipped: only root runs containers here';
  const missing = ['containerd', 'ctr', 'runc', 'busybox'].filter((command) => spawnSync('which', [command]).status !== 0);
  return missing.length === 0 ? undefined : `skipped: no ${missing.join(', ')}`;
})();

export interface ImageOptions {
  /** `localhost/name:tag` */
  readonly reference: string;
  /** A static program, and where it is in the image. */
  readonly program: string;
  readonly at: string;
  readonly entrypoint: readonly string[];
}

export interface Image {
  /** Of its configuration, `sha256:…`. */
  readonly id: string;
  /** `localhost/name@sha256:…` */
  readonly digestReference: string;
}

export interface PodOptions {
  readonly name: string;
  readonly namespace?: string;
  readonly uid: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** As a kubelet has it, `/kubepods/besteffort/podUID`; without one containerd puts containers where it likes. */
  readonly cgroupParent?: string;
}

export interface ContainerOptions {
  readonly name: string;
  readonly image: string;
  readonly args?: readonly string[];
  readonly labels?: Readonly<Record<string, string>>;
  /** Host directory by the directory in the container. */
  readonly mounts?: Readonly<Record<string, string>>;
  readonly uid?: number;
}

export interface RunningContainer {
  readonly id: string;
  /** Of a process in it, as the host numbers it. */
  pid(): number;
  status(): Promise<ContainerStatus__Output>;
  /** What it printed that is JSON, from the beginning. */
  lines(): Promise<readonly OutputLine[]>;
  /** The first line that `matches`; rejects with all output after 20 s. */
  until(matches: string | ((line: OutputLine) => boolean)): Promise<OutputLine>;
  /** Killed, not removed. */
  stop(): Promise<void>;
  /** Killed first if it runs. */
  remove(): Promise<void>;
}

export interface RunningPod {
  readonly id: string;
  start(options: ContainerOptions): Promise<RunningContainer>;
}

export interface Containerd extends AsyncDisposable {
  readonly socketPath: string;
  importImage(options: ImageOptions): Promise<Image>;
  runPod(options: PodOptions): Promise<RunningPod>;
  /** Ends the daemon, not the containers. */
  halt(): Promise<void>;
  resume(): Promise<void>;
}

const pauseImage = 'localhost/steeple-pause:1';
const hostNamespaces = { network: 'NODE', pid: 'CONTAINER', ipc: 'NODE' } as const;

export async function startContainerd(): Promise<Containerd> {
  const directory = await mkdtemp('/tmp/steeple-containerd-');
  const socketPath = path.join(directory, 'containerd.sock');
  await writeFile(path.join(directory, 'config.toml'), configOf(directory, socketPath));
  const log = await open(path.join(directory, 'log'), 'a');
  const services = loadServices('runtime.v1.RuntimeService', 'runtime.v1.ImageService');
  const { 'runtime.v1.RuntimeService': service, 'runtime.v1.ImageService': images } = services;
  const client = createRpcClient({ clock: systemClock, address: `unix:${socketPath}`, keepalive: false });
  const parents = new Set(['/k8s.io']);
  let daemon: ReturnType<typeof spawn> | undefined;

  const failed = async (what: string): Promise<Error> => new Error(`${what}:\n${await readFile(path.join(directory, 'log'), 'utf8')}`);

  const engine: Containerd = {
    socketPath,
    async resume() {
      daemon = spawn('containerd', ['--config', path.join(directory, 'config.toml')], { stdio: ['ignore', log.fd, log.fd] });
      for (let attempt = 0; attempt < 200; attempt += 1) {
        if (daemon.exitCode !== null) throw await failed('containerd ended');
        const answered = await client.unary(service.Status, {}, { deadlineMs: 2_000 }).then(
          ({ status }) => status?.conditions.some(({ type, status: is }) => type === 'RuntimeReady' && is) === true,
          () => false,
        );
        if (answered) return;
        await sleep(100);
      }
      throw await failed('containerd is not ready');
    },
    async halt() {
      if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return;
      const gone = once(daemon, 'exit');
      daemon.kill('SIGTERM');
      await gone;
    },
    async importImage(options) {
      const archive = path.join(directory, 'image.tar');
      const id = await writeArchive(archive, options);
      const name = options.reference.slice(0, options.reference.lastIndexOf(':'));
      const ctr = async (...args: readonly string[]): Promise<string> => {
        const { status, stdout, stderr } = spawnSync('ctr', ['-a', socketPath, '-n', 'k8s.io', 'images', ...args], { encoding: 'utf8' });
        if (status !== 0) throw await failed(`ctr ${args.join(' ')}: ${stderr}`);
        return stdout;
      };
      await ctr('import', archive);
      const [manifest = 'none'] = /sha256:[0-9a-f]{64}/.exec(await ctr('ls', `name==${options.reference}`)) ?? [];
      await ctr('tag', options.reference, `${name}@${manifest}`);
      // What `ctr` did, the plugin learns from events.
      for (let attempt = 0; attempt < 100; attempt += 1) {
        const { images: known } = await client.unary(images.ListImages, {});
        const [digestReference] = known.find((image) => image.id === id)?.repo_digests ?? [];
        if (digestReference !== undefined) return { id, digestReference };
        await sleep(50);
      }
      throw await failed('the image is not seen');
    },
    async runPod({ name, namespace = 'test', uid, labels = {}, cgroupParent }) {
      if (cgroupParent !== undefined) parents.add(cgroupParent);
      const config: PodSandboxConfig = {
        metadata: { name, namespace, uid, attempt: 0 },
        log_directory: path.join(directory, 'logs', uid),
        labels: { ...labels },
        linux: { cgroup_parent: cgroupParent ?? '', security_context: { namespace_options: hostNamespaces } },
      };
      const { pod_sandbox_id: podId } = await client.unary(service.RunPodSandbox, { config });
      return {
        id: podId,
        async start({ name: containerName, image, args = [], labels: own = {}, mounts = {}, uid: user }) {
          // One file each: those of one name come after one another.
          const logName = `${containerName}-${randomUUID()}.log`;
          const made = await client.unary(service.CreateContainer, {
            pod_sandbox_id: podId,
            sandbox_config: config,
            config: {
              metadata: { name: containerName, attempt: 0 },
              image: { image },
              args: [...args],
              labels: { ...own },
              mounts: Object.entries(mounts).map(([inside, outside]) => ({ container_path: inside, host_path: outside, readonly: true })),
              log_path: logName,
              linux: { security_context: { namespace_options: hostNamespaces, ...(user === undefined ? {} : { run_as_user: { value: user } }) } },
            },
          });
          const { container_id: id } = made;
          await client.unary(service.StartContainer, { container_id: id });
          const logFile = path.join(directory, 'logs', uid, logName);
          const container: RunningContainer = {
            id,
            pid: () => pidIn(id),
            async status() {
              const { status } = await client.unary(service.ContainerStatus, { container_id: id });
              if (status === null) throw new Error(`no status of ${id}`);
              return status;
            },
            // Each line has its instant, stream and a mark for whole lines before it.
            async lines() {
              const printed = (await readFile(logFile, 'utf8')).split('\n').map((line) => line.split(' ').slice(3).join(' '));
              return printed.flatMap((line): readonly OutputLine[] => {
                const parsed = parseLine(line);
                return parsed === undefined ? [] : [parsed];
              });
            },
            async until(matches) {
              const fits = typeof matches === 'string' ? (line: OutputLine) => line.event === matches : matches;
              for (let attempt = 0; attempt < 200; attempt += 1) {
                const line = (await container.lines()).find(fits);
                if (line !== undefined) return line;
                await sleep(100);
              }
              throw new Error(`no line ${String(matches)}:\n${await readFile(logFile, 'utf8')}`);
            },
            stop: async () => void (await client.unary(service.StopContainer, { container_id: id, timeout: 0 })),
            remove: async () => void (await client.unary(service.RemoveContainer, { container_id: id })),
          };
          return container;
        },
      };
    },
    async [Symbol.asyncDispose]() {
      try {
        if (daemon?.exitCode !== null) await engine.resume();
        const { items } = await client.unary(service.ListPodSandbox, {});
        for (const { id } of items) {
          await client.unary(service.StopPodSandbox, { pod_sandbox_id: id });
          await client.unary(service.RemovePodSandbox, { pod_sandbox_id: id });
        }
      } finally {
        client.close();
        await engine.halt();
        await log.close();
        clear(directory, parents);
        await rm(directory, { recursive: true, force: true });
      }
    },
  };
  try {
    await engine.resume();
    await engine.importImage({ reference: pauseImage, program: '/usr/bin/busybox', at: 'bin/busybox', entrypoint: ['/bin/busybox', 'sleep', '86400'] });
    return engine;
  } catch (error) {
    await engine[Symbol.asyncDispose]();
    throw error;
  }
}

function configOf(directory: string, socketPath: string): string {
  return `version = 2
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "${socketPath}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "${pauseImage}"
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${directory}/cni/bin"
    conf_dir = "${directory}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`;
}

/** What `docker save` writes, with one layer of one program. @returns the image's id */
async function writeArchive(archive: string, { reference, program, at, entrypoint }: ImageOptions): Promise<string> {
  const build = await mkdtemp(`${archive}-`);
  const tar = (...args: readonly string[]): void => {
    const { status, stderr } = spawnSync('tar', args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`tar ${args.join(' ')}: ${stderr}`);
  };
  const digest = (bytes: string | Buffer): string => createHash('sha256').update(bytes).digest('hex');
  try {
    await mkdir(path.join(build, 'root', path.dirname(at)), { recursive: true });
    await copyFile(program, path.join(build, 'root', at));
    tar('-C', path.join(build, 'root'), '-cf', path.join(build, 'layer.tar'), '.');
    const layer = digest(await readFile(path.join(build, 'layer.tar')));
    const config = JSON.stringify({
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: { Entrypoint: entrypoint },
      rootfs: { type: 'layers', diff_ids: [`sha256:${layer}`] },
      history: [],
    });
    const id = digest(config);
    await writeFile(path.join(build, `${id}.json`), config);
    await writeFile(path.join(build, 'manifest.json'), JSON.stringify([{ Config: `${id}.json`, RepoTags: [reference], Layers: ['layer.tar'] }]));
    tar('-C', build, '-cf', archive, 'manifest.json', `${id}.json`, 'layer.tar');
    return `sha256:${id}`;
  } finally {
    await rm(build, { recursive: true });
  }
}

/** The first process whose control group is the container's. */
function pidIn(id: string): number {
  for (const name of readdirSync('/proc').filter((one) => /^\d+$/.test(one))) {
    try {
      if (readFileSync(`/proc/${name}/cgroup`, 'utf8').includes(id)) return Number(name);
    } catch {
      // Gone meanwhile.
    }
  }
  throw new Error(`no process in container ${id}`);
}

/** Shims, mounts and control groups that a failed removal left. */
function clear(directory: string, parents: Iterable<string>): void {
  for (const name of readdirSync('/proc').filter((one) => /^\d+$/.test(one))) {
    try {
      const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0');
      if (command[0]?.includes('containerd-shim') === true && command.includes(path.join(directory, 'containerd.sock'))) process.kill(Number(name), 'SIGKILL');
    } catch {
      // Gone meanwhile.
    }
  }
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n').flatMap((line) => line.split(' ')[4] ?? []);
  for (const mount of mounts.filter((one) => one.startsWith(`${directory}/`)).toReversed()) spawnSync('umount', ['-l', mount]);
  for (const parent of parents) {
    for (const hierarchy of ['', ...readdirSync('/sys/fs/cgroup')]) removeEmpty(path.join('/sys/fs/cgroup', hierarchy), parent);
  }
}

function removeEmpty(root: string, parent: string): void {
  for (let at = parent; at !== '/'; at = path.dirname(at)) {
    try {
      rmdirSync(path.join(root, at));
    } catch {
      return;
    }
  }
}
