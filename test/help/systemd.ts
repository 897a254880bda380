/**
 * A real systemd for a test: the distribution's own, as PID 1 of namespaces of its own, with a real dbus-daemon and the
 * units that the test writes. What runs beside it must be started through `inside` to have the same process numbers.
 */
import { spawnSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, rm, rmdir, writeFile } from 'node:fs/promises';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { systemClock } from '../../runtime/clock.ts';
import { runToEnd, startRunning } from './running.ts';
import type { Finished } from './running.ts';

const programs = ['/lib/systemd/systemd', 'dbus-daemon', 'systemctl', 'unshare', 'nsenter', 'setpriv'];

/** Why tests that need it are skipped; undefined when they are not, as always in CI. */
export const withoutSystemd: string | undefined = (() => {
  if (process.env['CI'] !== undefined) return undefined;
  if (process.geteuid?.() !== 0) return 'skipped: systemd is started as root';
  const missing = programs.find((program) => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0);
  return missing === undefined ? undefined : `skipped: no \`${missing}\``;
})();

export interface RealSystemd extends AsyncDisposable {
  readonly directory: string;
  /** Where `override` puts unit files; systemd looks here first. */
  readonly overrides: string;
  readonly units: string;
  /** Writes a unit's file, which a reload reads. */
  unit(name: string, text: string, directory?: string): Promise<void>;
  /** The command, to be run in systemd's namespaces. */
  inside(...command: readonly string[]): [string, ...string[]];
  /** Throws with what was printed when the exit code is not 0. */
  systemctl(...args: readonly string[]): Promise<string>;
  /** Runs to the end inside. */
  run(...command: readonly string[]): Promise<Finished>;
  /** As numbered inside. */
  mainPid(unit: string): Promise<number>;
}

export const privateSocket = '/run/systemd/private';
export const busSocket = '/run/dbus/system_bus_socket';

interface Hierarchy {
  readonly at: string;
  readonly type: string;
  readonly options: string;
  /** The group that this program is in. */
  readonly own: string;
}

/** All that systemd would make groups in; in `cpuset` a new group takes nobody. */
function hierarchies(): readonly Hierarchy[] {
  const own = new Map(
    readFileSync('/proc/self/cgroup', 'utf8')
      .trim()
      .split('\n')
      .map((line) => line.split(':'))
      .map(([, controllers = '', where = '']) => [controllers, where]),
  );
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, at = '', type = '']) => at.startsWith('/sys/fs/cgroup') && type.startsWith('cgroup'))
    .flatMap(([, at = '', type = '', options = '']) => {
      const controllers = type === 'cgroup2' ? '' : [...own.keys()].find((names) => names !== '' && names.split(',').every((name) => options.split(',').includes(name)));
      const where = controllers === undefined ? undefined : own.get(controllers);
      return where === undefined || controllers?.includes('cpuset') === true ? [] : [{ at, type, options, own: where }];
    });
}

const baseUnits: Readonly<Record<string, string>> = {
  'test.target': '[Unit]\nDefaultDependencies=no\nWants=dbus.socket\n',
  'dbus.socket': `[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=${busSocket}\n`,
  'dbus.service': `[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
Type=notify
NotifyAccess=main
ExecStart=dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation
`,
};

export async function startSystemd(): Promise<RealSystemd> {
  const directory = await mkdtemp('/tmp/steeple-systemd-');
  await chmod(directory, 0o755);
  const [units, overrides] = [path.join(directory, 'units'), path.join(directory, 'overrides')];
  const used = hierarchies();
  const group = path.basename(directory);
  const groups = used.map(({ at, own }) => path.join(at, own, group));
  await Promise.all([mkdir(units), mkdir(overrides), ...groups.map((one) => mkdir(one))]);
  const unit: RealSystemd['unit'] = (name, text, where = units) => writeFile(path.join(where, name), text);
  for (const [name, text] of Object.entries(baseUnits)) await unit(name, text);

  // The rest it mounts itself.
  const mounts = used
    .filter(({ type, options }) => type === 'cgroup2' || options.split(',').includes('name=systemd'))
    .map(({ at, type }) => `mkdir -p ${at} && mount -t ${type} ${type === 'cgroup' ? '-o none,name=systemd ' : ''}cgroup ${at}`);
  const inner = [
    'set -e',
    'mount --make-rprivate /',
    'mount -t proc proc /proc',
    // What belongs to the machine stays as it is.
    'for kept in /etc /proc/sys; do mount --bind $kept $kept; mount -o remount,bind,ro $kept; done',
    'mount -t tmpfs -o mode=755 tmpfs /run',
    // The same file system cannot be mounted on itself, where that is all there is.
    used.some(({ at }) => at === '/sys/fs/cgroup') ? 'umount --recursive --lazy /sys/fs/cgroup' : 'mount -t tmpfs tmpfs /sys/fs/cgroup',
    ...mounts,
    `exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=steeple SYSTEMD_UNIT_PATH=${overrides}:${units} ` +
      'setpriv --bounding-set -sys_module,-sys_boot,-sys_time /lib/systemd/systemd --system --unit=test.target --log-target=null --show-status=0',
  ];
  const outer = [...groups.map((one) => `echo $$ > ${one}/cgroup.procs`), 'exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child sh -c "$0"'];
  const running = startRunning(['sh', '-c', outer.join(' && '), inner.join('\n')]);
  const ends = async (): Promise<void> => {
    // With its PID 1 the kernel ends everything in the namespace, and what holds its output open.
    await running.end('SIGKILL');
    for (const one of groups) await removeGroups(one);
    await rm(directory, { recursive: true, force: true });
  };

  const inside = (...command: readonly string[]): [string, ...string[]] => ['nsenter', '--target', String(host), '--mount', '--pid', '--uts', '--ipc', '--cgroup', ...command];
  const systemctl = async (...args: readonly string[]): Promise<string> => {
    const { code, stdout, stderr } = await runToEnd(inside('systemctl', ...args));
    if (code !== 0) throw new Error(`systemctl ${args.join(' ')} exits ${String(code)}: ${stderr}${stdout}`);
    return stdout.trim();
  };
  let host = 0;
  try {
    host = await eventually('systemd runs', async () => {
      const child = Number((await readFile(`/proc/${String(running.pid)}/task/${String(running.pid)}/children`, 'utf8')).split(' ')[0]);
      return (await readFile(`/proc/${String(child)}/comm`, 'utf8')) === 'systemd\n' ? child : undefined;
    });
    await eventually('the target is reached', async () => ((await systemctl('is-active', 'test.target')) === 'active' ? true : undefined));
  } catch (error) {
    await ends();
    throw new Error(`systemd does not start: ${running.text()}`, { cause: error });
  }
  return {
    directory,
    overrides,
    units,
    unit,
    inside,
    systemctl,
    run: (...command) => runToEnd(inside(...command)),
    mainPid: async (name) => Number(await systemctl('show', '--property=MainPID', '--value', name)),
    [Symbol.asyncDispose]: ends,
  };
}

/** Asks until there is an answer; a failure is none. */
export async function eventually<T>(what: string, ask: () => Promise<T | undefined>, withinMs = 20_000): Promise<T> {
  const until = systemClock.monotonic() + withinMs;
  for (;;) {
    const answer = await ask().catch((error: unknown) => (systemClock.monotonic() > until ? Promise.reject(error as Error) : undefined));
    if (answer !== undefined) return answer;
    if (systemClock.monotonic() > until) throw new Error(`not within ${String(withinMs)} ms: ${what}`);
    await systemClock.sleep(50);
  }
}

/** Groups go from the leaves up, and only once the kernel has let go of who was in them. */
async function removeGroups(directory: string): Promise<void> {
  for (const entry of readdirSync(directory, { withFileTypes: true })) if (entry.isDirectory()) await removeGroups(path.join(directory, entry.name));
  await eventually(`${directory} is empty`, () => rmdir(directory).then(() => true));
}
