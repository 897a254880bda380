/**
 * Docker's and Podman's own programs on data and socket paths of their own, started for a test and ended with it. What runs
 * in their containers, and what is expected of it, is the test's.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { systemClock } from '../../runtime/clock.ts';
import { createHttpClient } from '../../runtime/http.ts';
import { runToEnd, startRunning } from './running.ts';
import type { Finished, Running } from './running.ts';

export interface ContainerOptions {
  readonly image: string;
  readonly args?: readonly string[];
  /** Flags of `run` besides. */
  readonly flags?: readonly string[];
}

/** A container in the foreground: what it prints are the lines. */
export interface RunningContainer extends Running {
  readonly name: string;
  /** Once it runs. */
  id(): Promise<string>;
  /** Of its first process, as the host numbers it. */
  hostPid(): Promise<number>;
}

export interface Engine extends AsyncDisposable {
  readonly socketPath: string;
  /** Where the test may put files; goes with the engine. */
  readonly directory: string;
  /** Runs the engine's own CLI. */
  cli(...args: readonly string[]): Promise<Finished>;
  /** Makes an image of one static program, which becomes its entry point. */
  image(name: string, program: string, ...changes: readonly string[]): Promise<void>;
  run(options: ContainerOptions): RunningContainer;
  /** Ends the program that listens on the socket. */
  stop(): Promise<void>;
  /** Starts it again. */
  start(): Promise<void>;
}

interface Kind {
  readonly programs: readonly string[];
  /** The command that serves the socket. */
  serve(at: Places): readonly [string, ...string[]];
  cli(at: Places): readonly [string, ...string[]];
  readonly runFlags: readonly string[];
}

interface Places {
  readonly directory: string;
  readonly socketPath: string;
}

const podmanBase = ({ directory }: Places): readonly [string, ...string[]] => [
  'podman',
  '--root',
  `${directory}/root`,
  '--runroot',
  `${directory}/run`,
  '--tmpdir',
  `${directory}/tmp`,
  '--events-backend',
  'file',
  '--runtime',
  'runc',
  '--cgroup-manager',
  'cgroupfs',
  '--storage-driver',
  'overlay',
];

const kinds = {
  docker: {
    programs: ['dockerd', 'docker', 'containerd', 'runc'],
    serve: ({ directory, socketPath }) => [
      'dockerd',
      '--config-file',
      `${directory}/daemon.json`,
      '--iptables=false',
      '--ip6tables=false',
      '--bridge=none',
      '--storage-driver',
      'overlay2',
      '--data-root',
      `${directory}/data`,
      '--exec-root',
      `${directory}/exec`,
      '--pidfile',
      `${directory}/dockerd.pid`,
      '-H',
      `unix://${socketPath}`,
    ],
    cli: ({ directory, socketPath }) => ['docker', '--config', `${directory}/cli`, '-H', `unix://${socketPath}`],
    runFlags: ['--network=none'],
  },
  podman: {
    programs: ['podman', 'runc', 'conmon'],
    serve: (at) => [...podmanBase(at), 'system', 'service', '--time=0', `unix://${at.socketPath}`],
    cli: podmanBase,
    // The limits it sets by itself need a capability that a machine in a container lacks.
    runFlags: ['--network=none', '--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024'],
  },
} as const satisfies Record<string, Kind>;

export type EngineName = keyof typeof kinds;

/** Why tests that need the engine are skipped; undefined when they are not, as always in CI. */
export function withoutEngine(name: EngineName): string | undefined {
  if (process.env['CI'] !== undefined) return undefined;
  if (process.geteuid?.() !== 0) return `skipped: ${name} is started as root`;
  const missing = kinds[name].programs.find((program) => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0);
  return missing === undefined ? undefined : `skipped: no \`${missing}\` on PATH`;
}

export interface EngineOptions {
  /** Sees cgroup v2 alone, in a mount namespace of its own; the host's hierarchies stay as they are. */
  readonly cgroup2Only?: boolean;
}

const onlyCgroup2 = 'mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"';

/** Resolves once it answers. Whoever starts it disposes of it, also after a failure. */
export async function startEngine(name: EngineName, options: EngineOptions = {}): Promise<Engine> {
  const kind: Kind = kinds[name];
  const directory = mkdtempSync('/tmp/steeple-engine-');
  const at = { directory, socketPath: `${directory}/${name}.sock` };
  writeFileSync(`${directory}/daemon.json`, '{}');
  const containers: RunningContainer[] = [];
  let served: Running | undefined;
  let count = 0;
  const cli = (...args: readonly string[]): Promise<Finished> => runToEnd([...kind.cli(at), ...args]);
  const must = async (...args: readonly string[]): Promise<string> => {
    const { code, stdout, stderr } = await cli(...args);
    if (code !== 0) throw new Error(`${name} ${args.join(' ')} exits ${String(code)}: ${stderr}${stdout}`);
    return stdout.trim();
  };
  const eventually = async (container: string, field: string): Promise<string> => {
    for (let wait = 0; wait < 200; wait += 1) {
      const { code, stdout } = await cli('inspect', '--format', '{{.State.Running}} {{' + field + '}}', container);
      if (code === 0 && stdout.startsWith('true ')) return stdout.trim().slice('true '.length);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`container ${container} does not run`);
  };

  const engine: Engine = {
    ...at,
    cli,
    async image(image, program, ...changes) {
      const root = mkdtempSync(`${directory}/image-`);
      copyFileSync(program, `${root}/program`);
      const archive = `${root}.tar`;
      const tar = await runToEnd(['tar', '-C', root, '-cf', archive, '.']);
      if (tar.code !== 0) throw new Error(tar.stderr);
      await must('import', ...['ENTRYPOINT ["/program"]', ...changes].flatMap((change) => ['--change', change]), archive, image);
      rmSync(root, { recursive: true });
      rmSync(archive);
    },
    run({ image, args = [], flags = [] }) {
      const container = `steeple-test-${String((count += 1))}`;
      const running = startRunning([...kind.cli(at), 'run', '--rm', '--name', container, ...kind.runFlags, ...flags, image, ...args]);
      const made: RunningContainer = {
        ...running,
        name: container,
        id: () => eventually(container, '.Id'),
        hostPid: async () => Number(await eventually(container, '.State.Pid')),
      };
      containers.push(made);
      return made;
    },
    async stop() {
      await served?.end('SIGTERM');
      served = undefined;
    },
    async start() {
      const command = kind.serve(at);
      served = startRunning(options.cgroup2Only === true ? ['unshare', '-m', 'sh', '-c', onlyCgroup2, 'sh', ...command] : command);
      await answers(at.socketPath, served);
    },
    async [Symbol.asyncDispose]() {
      try {
        const { stdout = '' } = containers.length === 0 ? {} : await cli('ps', '-aq');
        const left = stdout.split('\n').filter((id) => id !== '');
        if (left.length > 0) await cli('rm', '-f', ...left);
        await Promise.all(containers.map((container) => container.end('SIGKILL')));
      } finally {
        await engine.stop();
        await remove(directory);
      }
    },
  };
  mkdirSync(`${directory}/cli`);
  try {
    await engine.start();
  } catch (error) {
    await engine[Symbol.asyncDispose]();
    throw error;
  }
  return engine;
}

async function answers(socketPath: string, served: Running): Promise<void> {
  const http = createHttpClient({ clock: systemClock, endpoint: { socketPath } });
  let ended = false;
  void served.exit.then(() => (ended = true));
  try {
    for (let wait = 0; wait < 600 && !ended; wait += 1) {
      const { status } = await http.request({ path: '/_ping' }).catch(() => ({ status: 0 }));
      if (status === 200) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  } finally {
    http.close();
  }
  throw new Error(`the engine does not answer: ${served.text()}`);
}

/** What tidies up after a container may still be at it. */
async function remove(directory: string): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    unmountBelow(directory);
    try {
      rmSync(directory, { recursive: true, force: true });
      return;
    } catch (error) {
      if (attempt === 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** What an engine that was killed left behind, so that nothing of the host is removed through it. */
function unmountBelow(directory: string): void {
  const points = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((point) => point.startsWith(`${directory}/`));
  for (const point of points.toReversed()) spawnSync('umount', ['-l', point]);
}

/** The group of a process in the hierarchy of cgroup v2, wherever this machine mounts it. */
export function cgroup2Directory(pid: number): string {
  const [, group = ''] = /^0::(.*)$/m.exec(readFileSync(`/proc/${String(pid)}/cgroup`, 'utf8')) ?? [];
  const found = ['', 'unified'].map((mount) => path.join('/sys/fs/cgroup', mount, group)).find((one) => existsSync(path.join(one, 'cgroup.procs')));
  if (group === '' || found === undefined) throw new Error(`process ${String(pid)} is in no group of cgroup v2`);
  return found;
}
