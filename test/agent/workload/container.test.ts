import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { readFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { parseCgroups } from '../../../agent/workload/cgroup.ts';
import { containerOf, createContainers } from '../../../agent/workload/container.ts';
import type { ContainerRef } from '../../../agent/workload/container.ts';
import { systemClock } from '../../../runtime/clock.ts';
import { effectiveUid, systemCode } from '../../../runtime/linux.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { peerOfProcess } from '../../help/peer.ts';
import type { HeldPeer } from '../../help/peer.ts';
import { cgroupVectors, ids } from '../../vectors/cgroups.ts';

function answerTo(text: string, own: string, parents: readonly string[] = []): ContainerRef | string | undefined {
  try {
    return containerOf(parseCgroups(text), parseCgroups(own), parents);
  } catch (error) {
    if (!(error instanceof SpiffeError) || error.kind !== 'denied') throw error;
    return error.reason;
  }
}

describe('T-A07 the container of a process', () => {
  it('has a corpus of layouts with names of their own', () => {
    expect(cgroupVectors.length).toBeGreaterThanOrEqual(90);
    expect(new Set(cgroupVectors.map(({ name }) => name)).size).toBe(cgroupVectors.length);
  });

  it.each(cgroupVectors)('$name', ({ text, own, parents, expected }) => {
    expect(answerTo(text, own, parents)).toStrictEqual(expected);
  });
});

describe('T-A07 whatever is written below a group that somebody may write to', () => {
  /** The parts of all layouts, in any order. */
  const names = [
    ...new Set(cgroupVectors.flatMap(({ text }) => parseCgroups(text).flatMap(({ path }) => path.split('/')))),
  ].filter((name) => name !== '' && name !== '..');
  const forgery = fc.array(fc.constantFrom(...names), { minLength: 1, maxLength: 7 }).map((parts) => `/${parts.join('/')}`);
  const runs = { numRuns: 1_000 };
  const refIn = (path: string): ContainerRef | undefined => {
    const answer = answerTo(`0::${path}\n`, '0::/\n');
    return typeof answer === 'string' ? undefined : answer;
  };

  it.each([
    '/system.slice/evil.service',
    '/system.slice/run-r42.scope',
    '/system.slice/system-evil.slice/evil@1.service',
    '/user.slice/user-1000.slice/session-2.scope',
    '/user.slice/user-1000.slice/user@1001.service',
    '/lxc.payload.web',
    '/machine.slice/machine-web.scope',
    '/../evil.service',
    '/../../system.slice/evil.service',
  ])('%s, no container follows from it', (parent) => {
    fc.assert(fc.property(forgery, (path) => refIn(parent + path) === undefined), runs);
  });

  it('a user’s subtree, it is that user’s', () => {
    const parent = '/user.slice/user-1000.slice/user@1000.service';
    expect(refIn(`${parent}/docker/${ids.a}`)?.ownerUid).toBe(1000);
    fc.assert(
      fc.property(forgery, (path) => {
        const ref = refIn(parent + path);
        return ref === undefined || ref.ownerUid === 1000;
      }),
      runs,
    );
  });

  it.each([`/docker/${ids.pod}`, `/system.slice/docker-${ids.pod}.scope`, `/kubepods/pod${ids.uid}/${ids.pod}`, `/../${ids.pod}`])(
    '%s, it is that container or refused',
    (parent) => {
      fc.assert(
        fc.property(forgery, (path) => {
          const ref = refIn(parent + path);
          return ref === undefined ? typeof answerTo(`0::${parent}${path}\n`, '0::/\n') === 'string' : ref.id === ids.pod;
        }),
        runs,
      );
    },
  );
});

/** Trees of which root may make groups on this machine, with their controllers. */
const trees = ['/sys/fs/cgroup/systemd', '/sys/fs/cgroup/pids', '/sys/fs/cgroup/unified', '/sys/fs/cgroup'].filter((tree) =>
  existsSync(`${tree}/cgroup.procs`),
);
const canMakeGroups = effectiveUid() === 0 && trees.length > 0;

describe('a real process', () => {
  let children: ChildProcess[] = [];
  let peers: HeldPeer[] = [];
  let groups: string[] = [];
  let directory: string | undefined;
  afterEach(async () => {
    for (const peer of peers) peer.close();
    for (const child of children) await end(child);
    for (const group of groups.toReversed()) removeGroup(group);
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
    [children, peers, groups, directory] = [[], [], [], undefined];
  });

  /** In a group of this name in every tree. */
  async function inGroup(group: string, command: string, args: readonly string[]): Promise<HeldPeer> {
    const child = spawn(command, args, { stdio: 'ignore' });
    children.push(child);
    await once(child, 'spawn');
    for (const tree of trees) {
      makeGroup(join(tree, group));
      writeFileSync(join(tree, group, 'cgroup.procs'), String(child.pid));
    }
    const held = peerOfProcess(child.pid ?? -1);
    peers.push(held);
    return held;
  }

  function makeGroup(path: string): void {
    if (existsSync(path)) return;
    makeGroup(dirname(path));
    mkdirSync(path);
    groups.push(path);
  }

  /** An engine may have begun to use one meanwhile. */
  function removeGroup(path: string): void {
    try {
      rmdirSync(path);
    } catch (error) {
      if (systemCode(error) !== 'EBUSY' && systemCode(error) !== 'ENOENT') throw error;
    }
  }

  async function end(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill('SIGKILL');
    await exit;
  }

  const newId = (): string => randomBytes(32).toString('hex');

  it.skipIf(!canMakeGroups)('T-A07 is in the container whose group it is in (needs root and cgroupfs)', async () => {
    const id = newId();
    const { peer } = await inGroup(`docker/${id}/init.scope`, '/bin/sleep', ['60']);
    expect(createContainers().of(peer)).toStrictEqual({ id, runtime: 'docker', podUid: undefined, ownerUid: undefined });
  });

  it.skipIf(!canMakeGroups)('T-A07 is refused in a group made in a service (needs root and cgroupfs)', async () => {
    const { peer } = await inGroup(`system.slice/steeple-${newId().slice(0, 8)}.service/docker-${newId()}.scope`, '/bin/sleep', ['60']);
    const refused = expect.objectContaining({ kind: 'denied', reason: 'container.forged' });
    expect(() => createContainers().of(peer)).toThrow(refused);
  });

  it.skipIf(!canMakeGroups)('T-A07 whatever it mounts over its own files (needs root and cgroupfs)', async () => {
    const id = newId();
    directory = await mkdtemp(join(tmpdir(), 'steeple-cgroup-'));
    const victim = newId();
    writeFileSync(join(directory, 'cgroup'), `0::/docker/${victim}\n`);
    writeFileSync(join(directory, 'mountinfo'), `41 38 0:36 /docker/${victim} /sys/fs/cgroup ro - cgroup2 cgroup rw\n`);
    // exec keeps the number, so what is mounted over its directory stays over it.
    const script = [
      'mount --make-rprivate /',
      `mount --bind ${directory}/cgroup /proc/$$/cgroup`,
      `mount --bind ${directory}/mountinfo /proc/$$/mountinfo`,
      `cat /proc/$$/cgroup > ${directory}/seen`,
      'exec sleep 60',
    ].join(' && ');
    const { peer } = await inGroup(`docker/${id}`, 'unshare', ['--mount', 'sh', '-c', script]);
    while ((await readFile(`/proc/${String(peer.pid)}/comm`, 'latin1')) !== 'sleep\n') await systemClock.sleep(2);
    // The process itself is taken in.
    expect(await readFile(join(directory, 'seen'), 'utf8')).toBe(`0::/docker/${victim}\n`);
    expect(createContainers().of(peer)?.id).toBe(id);
  });

  /** What a reader in another group, with a cgroup namespace of its own or not, says of the container of a process. */
  async function readFrom(group: string, ownNamespace: boolean, { peer }: HeldPeer): Promise<unknown> {
    const [cgroup, container] = ['cgroup', 'container'].map((file) => new URL(`../../../agent/workload/${file}.ts`, import.meta.url).href);
    const program = `
      import { readCgroups, readOwnCgroups } from '${String(cgroup)}';
      import { containerOf } from '${String(container)}';
      try { console.log(JSON.stringify(containerOf(readCgroups(${String(peer.pid)}), readOwnCgroups())?.id ?? 'none')) }
      catch (error) { console.log(JSON.stringify(error.reason ?? String(error))) }`;
    for (const tree of trees) makeGroup(join(tree, group));
    const enter = trees.map((tree) => `echo $$ > ${join(tree, group)}/cgroup.procs`);
    const node = [process.execPath, '--input-type=module', '-e', program];
    const args = ['-c', `${enter.join(' && ')} && exec "$@"`, 'sh', ...(ownNamespace ? ['unshare', '--cgroup'] : []), ...node];
    const { stdout, stderr } = spawnSync('sh', args, { encoding: 'utf8' });
    if (stdout === '') throw new Error(stderr);
    return JSON.parse(stdout);
  }

  it.skipIf(!canMakeGroups)('T-A07 is told by an agent in a container too (needs root and cgroupfs)', async () => {
    const [own, id] = [newId(), newId()];
    const beside = await inGroup(`docker/${id}`, '/bin/sleep', ['60']);
    expect(await readFrom(`docker/${own}`, true, beside)).toBe(id);
    expect(await readFrom(`docker/${own}/init.scope`, true, beside)).toBe('container.forged');
    expect(await readFrom(`docker/${own}`, false, beside)).toBe(id);
    const evil = await inGroup(`system.slice/steeple-${newId().slice(0, 8)}.service/docker-${id}.scope`, '/bin/sleep', ['60']);
    expect(await readFrom(`docker/${own}`, true, evil)).toBe('container.forged');
    const inner = await inGroup(`docker/${own}/docker/${id}`, '/bin/sleep', ['60']);
    expect(await readFrom(`docker/${own}/init.scope`, false, inner)).toBe(id);
    expect(await readFrom(`docker/${own}`, true, inner)).toBe(id);
    expect(() => createContainers().of(inner.peer)).toThrow(expect.objectContaining({ reason: 'container.ambiguous' }));
  });

  it('of this machine is in no container of this program’s own', () => {
    const held = peerOfProcess(process.pid);
    peers.push(held);
    expect(createContainers().of(held.peer)).toBeUndefined();
  });
});
