import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess, SpawnOptions } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync, writeFileSync } from 'node:fs';
import { chmod, chown, copyFile, mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { WantedSelectors } from '../../../../agent/workload/attestor.ts';
import { createProcessAttestor } from '../../../../agent/workload/attestors/process.ts';
import type { ProcessAttestor, ProcessAttestorOptions } from '../../../../agent/workload/attestors/process.ts';
import { createImageHashes } from '../../../../agent/workload/attestors/unix-hash.ts';
import { createUnixAttestor } from '../../../../agent/workload/attestors/unix.ts';
import { systemClock } from '../../../../runtime/clock.ts';
import { effectiveUid } from '../../../../runtime/linux.ts';
import { fakePeer, peerOfProcess } from '../../../help/peer.ts';
import type { HeldPeer } from '../../../help/peer.ts';

const isRoot = effectiveUid() === 0;
const has = (program: string): boolean => spawnSync(program, ['--help'], { stdio: 'ignore' }).error === undefined;
const hasSetpriv = isRoot && has('setpriv');
const hasUnshare = isRoot && has('unshare') && spawnSync('unshare', ['--mount', 'true']).status === 0;
const hasBusybox = isRoot && has('busybox');
const forever = new AbortController().signal;
const node = readlinkSync('/proc/self/exe');

let directory: string;
let children: ChildProcess[];
let peers: HeldPeer[];
let stops: (() => Promise<void>)[];
beforeEach(async () => {
  directory = await realpath(await mkdtemp(join(tmpdir(), 'steeple-process-')));
  await chmod(directory, 0o755);
  [children, peers, stops] = [[], [], []];
});
afterEach(async () => {
  for (const peer of peers) peer.close();
  for (const child of children) {
    const exit = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined;
    // All of its group: some children have children.
    if (child.pid !== undefined && exit !== undefined) process.kill(-child.pid, 'SIGKILL');
    await exit;
  }
  for (const stop of stops) await stop();
  await rm(directory, { recursive: true, force: true });
});

function attestor(more: Partial<ProcessAttestorOptions> = {}): ProcessAttestor {
  const one = createProcessAttestor({ clock: systemClock, ...more });
  stops.push(() => one.stop());
  return one;
}

async function run(file: string, args: readonly string[] = ['60'], options: SpawnOptions = {}): Promise<HeldPeer> {
  const child = spawn(file, args, { stdio: 'ignore', detached: true, ...options });
  children.push(child);
  await once(child, 'spawn');
  return hold(child.pid ?? -1);
}

function hold(pid: number): HeldPeer {
  const held = peerOfProcess(pid);
  peers.push(held);
  return held;
}

/** The process once it has become the program of this name. */
async function becomes({ peer }: HeldPeer, name: string): Promise<HeldPeer> {
  while ((await readFile(`/proc/${String(peer.pid)}/comm`, 'latin1')) !== `${name}\n`) await systemClock.sleep(2);
  return hold(peer.pid);
}

/** With other rights, through setpriv. */
async function runAs(options: readonly string[], file = '/bin/sleep', args: readonly string[] = ['60']): Promise<HeldPeer> {
  const name = file === 'unshare' ? 'sleep' : file.slice(file.lastIndexOf('/') + 1);
  return becomes(await run('setpriv', [...options, file, ...args]), name);
}

const ordinary = ['--reuid', '4001', '--regid', '4001', '--clear-groups'];

/** The only child of a process, once there is one. */
async function childOf({ peer }: HeldPeer): Promise<HeldPeer> {
  const file = `/proc/${String(peer.pid)}/task/${String(peer.pid)}/children`;
  for (;;) {
    const [pid] = readFileSync(file, 'utf8').split(' ');
    if (pid !== undefined && pid !== '') return becomes(hold(Number(pid)), 'sleep');
    await systemClock.sleep(2);
  }
}

interface Facts {
  readonly selectors: readonly string[];
  readonly omitted: readonly string[];
  readonly until: Promise<unknown> | undefined;
}

/** @param kinds those that entries ask for; all if none is given */
async function attest({ peer }: HeldPeer, kinds: readonly string[] = [], one: ProcessAttestor = attestor()): Promise<Facts> {
  const omitted: string[] = [];
  let until: Promise<unknown> | undefined;
  const wanted: WantedSelectors = { asks: (prefix) => kinds.length === 0 || kinds.some((kind) => prefix === `process:${kind}:`) };
  const selectors = await one.attest(peer, {
    wanted,
    signal: forever,
    recheck: () => undefined,
    omit: (what, reason, promise) => {
      omitted.push(`${what} ${reason}`);
      until = promise ?? until;
    },
  });
  return { selectors, omitted, until };
}

describe('what nobody asks for', () => {
  it('is not looked at', async () => {
    expect(await attest({ peer: fakePeer(), close: () => undefined }, ['none'])).toEqual({ selectors: [], omitted: [], until: undefined });
    const { selectors } = await attest(await run('/bin/sleep'), ['seccomp', 'session']);
    expect(selectors.map((one) => one.split(':')[1])).toEqual(['seccomp', 'session']);
  });

  it('T-A19 of a process that is gone nothing is said, with the reasons', async () => {
    const held = await run('/bin/sleep');
    const [child] = children;
    const exit = once(child!, 'exit');
    child?.kill('SIGKILL');
    await exit;
    const { selectors, omitted } = await attest(held);
    expect(selectors).toEqual([]);
    expect(omitted).toContain('process:capability process.gone');
    expect(omitted).toContain('process:cgroup cgroup.gone');
    expect(omitted).toContain('process:ancestor:path process.ancestor.moved');
  });

  it('leaves no descriptors behind', async () => {
    const one = attestor();
    const held = await run('/bin/sleep');
    await (await attest(held, [], one)).until;
    await attest(held, [], one);
    const before = readdirSync('/proc/self/fd').length;
    for (let n = 0; n < 20; n += 1) await attest(held, [], one);
    expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before);
  });
});

describe('parents and ancestors', () => {
  it('are named by what they run', async () => {
    const shell = await run('/bin/sh', ['-c', 'sleep 60; true']);
    const { selectors } = await attest(await childOf(shell), ['parent', 'ancestor']);
    expect(selectors.filter((one) => one.startsWith('process:parent:'))).toEqual([`process:parent:path:${await realpath('/bin/sh')}`]);
    expect(selectors).toContain(`process:ancestor:path:${await realpath('/bin/sh')}`);
    expect(selectors).toContain(`process:ancestor:path:${node}`);
  });

  it('T-A02 are what they run now, whoever they were when the child was made', async () => {
    const shell = await run('/bin/sh', ['-c', 'sleep 60 & exec tail -f /dev/null']);
    await becomes(shell, 'tail');
    const { selectors } = await attest(await childOf(shell), ['parent']);
    expect(selectors).toEqual([`process:parent:path:${await realpath('/usr/bin/tail')}`]);
  });

  it('T-A05 a file that is gone or has no name in text names nobody', async () => {
    const script = ['-c', 'sleep 60; true'];
    const path = join(directory, 'shell');
    await copyFile('/bin/sh', path);
    const deleted = await childOf(await run(path, script));
    await rm(path);
    expect(await attest(deleted, ['parent'])).toMatchObject({ selectors: [], omitted: ['process:parent:path process.path.deleted'] });
    const odd = join(directory, 'two\nlines');
    await copyFile('/bin/sh', odd);
    const lines = await childOf(await run(odd, script));
    expect(await attest(lines, ['parent'])).toMatchObject({ selectors: [], omitted: ['process:parent:path process.path.text'] });
  });

  it.skipIf(!hasUnshare)('T-A05 a path in a mount namespace of its own names nobody (needs root, unshare)', async () => {
    // Anybody may call a file of theirs /bin/cat there.
    const script = ['mount --make-rprivate /', 'mount --bind /bin/sh /usr/bin/cat', 'exec /usr/bin/cat -c "sleep 60; true"'];
    const parent = await becomes(await run('unshare', ['--mount', '/bin/sh', '-c', script.join(' && ')]), 'cat');
    expect(readlinkSync(`/proc/${String(parent.peer.pid)}/exe`)).toBe('/usr/bin/cat');
    const facts = await attest(await childOf(parent), ['parent', 'ancestor']);
    expect(facts.selectors).not.toContain('process:parent:path:/usr/bin/cat');
    expect(facts.omitted).toContain('process:parent:path process.path.namespace');
    expect(facts.selectors).toContain(`process:ancestor:path:${node}`);
  });
});

describe('image', () => {
  const digestOf = async (path: string): Promise<string> => createHash('sha256').update(await readFile(path)).digest('hex');

  it('has the digest that the unix attestor has, worked out once', async () => {
    const hashes = createImageHashes({ clock: systemClock });
    stops.push(() => hashes.stop());
    const held = await run('/bin/sleep');
    const one = attestor({ hashes });
    const first = await attest(held, ['image'], one);
    expect(first.omitted).toContain('process:image:sha256 unix.sha256.pending');
    await first.until;
    await one.stop();
    const unix = createUnixAttestor({ clock: systemClock, hashes, overflow: undefined });
    const question = { wanted: { asks: () => true }, signal: forever, omit: () => undefined, recheck: () => undefined };
    const digest = await digestOf('/bin/sleep');
    expect(await unix.attest(held.peer, question)).toContain(`unix:sha256:${digest}`);
    expect((await attest(held, ['image'], one)).selectors).toContain(`process:image:sha256:${digest}`);
  });

  const writable = ({ selectors, omitted }: Facts): string =>
    [...selectors, ...omitted].find((one) => one.startsWith('process:image:writable')) ?? 'nothing';

  it.skipIf(!hasSetpriv)('G-35 is not writable where only root could have written it (needs root, setpriv)', async () => {
    expect(writable(await attest(await runAs(ordinary), ['image']))).toBe('process:image:writable:false');
    const ports = [...ordinary, '--inh-caps', '+net_bind_service', '--ambient-caps', '+net_bind_service'];
    expect(writable(await attest(await runAs(ports), ['image']))).toBe('process:image:writable:false');
  });

  it.skipIf(!hasSetpriv)('G-35 may be writable otherwise (needs root, setpriv)', async () => {
    const because = async (mode: number, owner = 0): Promise<string> => {
      const path = join(directory, `app-${String(children.length)}`);
      await copyFile('/bin/sleep', path);
      await chmod(path, mode);
      await chown(path, owner, 4001);
      return writable(await attest(await runAs(ordinary, path), ['image']));
    };
    expect(await because(0o755, 4001)).toBe('process:image:writable process.image.owner');
    // Whoever has subordinate ids owns their files as well.
    expect(await because(0o755, 100_000)).toBe('process:image:writable process.image.owner');
    expect(await because(0o775)).toBe('process:image:writable process.image.mode');
    expect(await because(0o757)).toBe('process:image:writable process.image.mode');
    const chowner = [...ordinary, '--inh-caps', '+chown', '--ambient-caps', '+chown'];
    for (const options of [chowner, ['--ruid', '0', '--euid', '4001'], []]) {
      expect(writable(await attest(await runAs(options), ['image']))).toBe('process:image:writable process.image.privileged');
    }
  });
});

describe('an image on a mount', () => {
  it.skipIf(!hasSetpriv || !hasUnshare)('G-35 that users bring along may be anybody’s (needs root, setpriv, unshare)', async () => {
    await mkdir(join(directory, 'stick'));
    const script = (options: string): string =>
      [
        'mount --make-rprivate /',
        `mount -t tmpfs -o ${options} none ${directory}/stick`,
        `cp /bin/sleep ${directory}/stick/app`,
        `exec setpriv ${ordinary.join(' ')} ${directory}/stick/app 60`,
      ].join(' && ');
    const factsOf = async (options: string): Promise<Facts> =>
      attest(await becomes(await run('unshare', ['--mount', '/bin/sh', '-c', script(options)]), 'app'), ['image']);
    expect((await factsOf('mode=755')).selectors).toContain('process:image:writable:false');
    const stick = await factsOf('mode=755,nosuid');
    expect(stick.selectors).toEqual([]);
    expect(stick.omitted).toContain('process:image:writable process.image.mount');
  });
});

describe('scripts', () => {
  const scriptOf = async (held: HeldPeer): Promise<readonly string[]> => (await attest(held, ['interpreter', 'script'])).selectors;
  const none: readonly string[] = [];
/** Waits for ever, without a child. */
  const idle = (): string => `exec 3<>"${join(directory, 'pipe')}"; read -r line <&3\n`;

  /** A script that waits, with a pipe beside it. */
  async function script(name: string, line: string, body = idle()): Promise<string> {
    const path = join(directory, name);
    if (!existsSync(join(directory, 'pipe'))) spawnSync('mkfifo', [join(directory, 'pipe')]);
    await writeFile(path, `${line}\n${body}`, { mode: 0o755 });
    return path;
  }
  const expected = async (path: string): Promise<readonly string[]> => [
    `process:interpreter:${await realpath('/bin/sh')}`,
    `process:script:${path}`,
    `process:script:sha256:${createHash('sha256').update(await readFile(path)).digest('hex')}`,
  ];

  it.each(['#!/bin/sh', '#! /bin/sh', '#!/bin/sh -e', '#!/bin/sh\t-e\t', '#!/usr/bin/env sh'])('are told when the kernel started them: %s', async (line) => {
    const path = await script('app', line);
    const held = await becomes(await run(path, ['an', 'argument']), line.includes('env') ? 'sh' : 'app');
    expect(await scriptOf(held)).toEqual(await expected(path));
  });

  it('T-A04 are told of whoever gives the interpreter the same arguments: no proof, as the page says', async () => {
    const path = await script('app', '#!/bin/sh');
    const other = await run('/bin/sh', [path]);
    expect(await scriptOf(other)).toEqual(await expected(path));
  });

  it.each([
    ['a program', '/bin/sleep', ['60']],
    ['an option in front', '/bin/sh', ['-e', 'app']],
    ['a relative path', '/bin/sh', ['app']],
    ['a path with dots', '/bin/sh', ['./app']],
    ['a command', '/bin/sh', ['-c', '', 'app']],
    ['another interpreter', '/bin/bash', ['app']],
    ['a pipe, which is not opened', '/usr/bin/tail', ['-f', 'pipe']],
    ['a device, which is not opened', '/usr/bin/tail', ['-f', '/dev/null']],
    ['a link of the kernel’s', '/usr/bin/tail', ['-f', '/proc/self/exe']],
    ['nothing that is there', '/usr/bin/tail', ['-f', '--retry', 'gone']],
  ] as const)('are not told of %s', async (what, file, args) => {
    await script('app', '#!/bin/sh');
    const absolute = what !== 'a relative path' && what !== 'a path with dots';
    const spelled = args.map((arg) => (arg === '' ? idle() : absolute && ['app', 'pipe', 'gone'].includes(arg) ? join(directory, arg) : arg));
    expect(await scriptOf(await run(file, spelled, { cwd: directory }))).toEqual(none);
  });

  it('are not told when the file has changed its first line', async () => {
    const path = await script('app', '#!/bin/sh');
    const held = await becomes(await run(path), 'app');
    await script('app', '#!/bin/bash');
    expect(await scriptOf(held)).toEqual(none);
  });

  it.skipIf(!hasBusybox)('T-A07 are looked up in the process’s own root, and links do not lead out of it (needs root, busybox)', async () => {
    await mkdir(join(directory, 'bin'));
    const busybox = spawnSync('sh', ['-c', 'command -v busybox'], { encoding: 'utf8' }).stdout.trim();
    await copyFile(busybox, join(directory, 'bin/sh'));
    const inner = '#!/bin/sh\nkill -STOP $$\n';
    await writeFile(join(directory, 'inner'), inner, { mode: 0o755 });
    await symlink('/inner', join(directory, 'app'));
    await symlink('../../../../inner', join(directory, 'up'));
    for (const path of ['/app', '/up']) {
      const held = await becomes(await run('chroot', [directory, path]), path.slice(1));
      expect(await scriptOf(held)).toEqual([
        `process:interpreter:${join(directory, 'bin/sh')}`,
        `process:script:${path}`,
        `process:script:sha256:${createHash('sha256').update(inner).digest('hex')}`,
      ]);
    }
  });
});

describe('control group', () => {
  const tree = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup/systemd', '/sys/fs/cgroup'].find((one) => existsSync(`${one}/cgroup.procs`));

  it('is that of the hierarchy with units', async () => {
    const { selectors } = await attest(await run('/bin/sleep'), ['cgroup']);
    const own = readFileSync('/proc/self/cgroup', 'utf8').matchAll(/^(?:0:|\d+:name=systemd):(.*)$/gmu);
    expect(new Set(selectors)).toEqual(new Set([...own].map(([, path = '']) => `process:cgroup:${path}`)));
  });

  it.skipIf(!isRoot || tree === undefined)('T-A15 is left out when its name is no text (needs root and cgroupfs)', async () => {
    const held = await run('/bin/sleep');
    const group = Buffer.concat([Buffer.from(`${String(tree)}/steeple-test-`), Buffer.from([0xff])]);
    const odd = `${String(tree)}/steeple-test-\u001b[31m`;
    mkdirSync(group);
    mkdirSync(odd);
    try {
      for (const path of [group, Buffer.from(odd)]) {
        writeFileSync(Buffer.concat([path, Buffer.from('/cgroup.procs')]), String(held.peer.pid));
        const { selectors, omitted } = await attest(held, ['cgroup']);
        expect(selectors.filter((one) => one.includes('steeple-test'))).toEqual([]);
        expect(omitted).toEqual(['process:cgroup process.cgroup.text']);
      }
    } finally {
      writeFileSync(`${String(tree)}/cgroup.procs`, String(held.peer.pid));
      rmdirSync(group);
      rmdirSync(odd);
    }
  });
});

describe('namespaces', () => {
  it.skipIf(!hasUnshare)('are the host’s or others (needs root, unshare)', async () => {
    const held = await becomes(await run('unshare', ['--uts', '/bin/sleep', '60']), 'sleep');
    const { selectors, omitted } = await attest(held, ['namespace']);
    const inode = (pid: number | 'self', kind: string): string => /\d+/.exec(readlinkSync(`/proc/${String(pid)}/ns/${kind}`))?.[0] ?? '';
    expect(selectors).toContain(`process:namespace:uts:${inode(held.peer.pid, 'uts')}`);
    expect(selectors).not.toContain('process:namespace:uts:host');
    expect(selectors).toContain('process:namespace:net:host');
    expect(selectors).toContain(`process:namespace:net:${inode('self', 'net')}`);
    expect(selectors).toHaveLength(15);
    expect(omitted).toEqual([]);
  });
});

describe('rights', () => {
  it.skipIf(!hasSetpriv)('capabilities are those in force (needs root, setpriv)', async () => {
    const admin = [...ordinary, '--inh-caps', '+net_admin,+net_raw', '--ambient-caps', '+net_admin,+net_raw'];
    const { selectors } = await attest(await runAs(admin), ['capability']);
    expect(selectors).toEqual(['process:capability:effective:CAP_NET_ADMIN', 'process:capability:effective:CAP_NET_RAW']);
    expect((await attest(await runAs(ordinary), ['capability'])).selectors).toEqual(['process:capability:none']);
    // They are asleep, not gone.
    expect((await attest(await runAs(['--ruid', '0', '--euid', '4001']), ['capability'])).selectors).not.toContain('process:capability:none');
  });

  it.skipIf(!hasSetpriv || !hasUnshare)('T-A08 capabilities of a user namespace are none (needs root, setpriv, unshare)', async () => {
    const held = await runAs(ordinary, 'unshare', ['--user', '--map-root-user', '/bin/sleep', '60']);
    expect(readFileSync(`/proc/${String(held.peer.pid)}/status`, 'utf8')).toMatch(/^CapEff:\t0*[1-9a-f]/mu);
    expect(await attest(held, ['capability'])).toMatchObject({ selectors: [], omitted: ['process:capability process.capability.namespace'] });
  });

  it.skipIf(!hasSetpriv)('no-new-privs is told either way (needs root, setpriv)', async () => {
    expect((await attest(await runAs(['--no-new-privs']), ['no-new-privs'])).selectors).toEqual(['process:no-new-privs:true']);
    expect((await attest(await run('/bin/sleep'), ['no-new-privs'])).selectors).toEqual(['process:no-new-privs:false']);
  });

  it('seccomp is told', async () => {
    const mode = ['disabled', 'strict', 'filter'][Number(/^Seccomp:\t(\d)$/mu.exec(readFileSync('/proc/self/status', 'utf8'))?.[1])];
    expect((await attest(await run('/bin/sleep'), ['seccomp'])).selectors).toEqual([`process:seccomp:${String(mode)}`]);
  });

  it.skipIf(!isRoot)('T-A04 a tracer of any thread is seen (needs root)', async () => {
    const libc = koffi.load(null);
    const ptrace = libc.func('long ptrace(long request, int pid, void *address, void *data)');
    const waitpid = libc.func('int waitpid(int pid, void *status, int options)');
    const [seize, allKinds] = [0x4206, 0x4000_0000];
    const held = await run(node, ['-e', 'setInterval(() => {}, 1000)']);
    const isInitial = readlinkSync('/proc/self/ns/pid') === 'pid:[4026531836]';
    const before = await attest(held, ['traced']);
    expect(before.selectors).toEqual(isInitial ? ['process:traced:false'] : []);
    let threads: string[] = [];
    while (threads.length < 4) threads = readdirSync(`/proc/${String(held.peer.pid)}/task`);
    expect(ptrace(seize, Number(threads[3]), null, null)).toBe(0);
    const after = await attest(held, ['traced']);
    // A traced thread stays until its tracer has heard of its end.
    process.kill(held.peer.pid, 'SIGKILL');
    waitpid(Number(threads[3]), null, allKinds);
    expect(after.selectors).toEqual(['process:traced:true']);
  });
});

describe('logins', () => {
  it('are unset, or those that somebody set', async () => {
    const text = (file: string): string => readFileSync(`/proc/self/${file}`, 'utf8').trim().replace('4294967295', 'unset');
    const { selectors } = await attest(await run('/bin/sleep'), ['loginuid', 'session']);
    expect(selectors).toEqual([`process:loginuid:${text('loginuid')}`, `process:session:${text('sessionid')}`]);
  });

  it.skipIf(!hasSetpriv || readFileSync('/proc/self/loginuid', 'utf8').trim() !== '4294967295')(
    'a process without one may claim any, as the page says (needs root, setpriv, no login)',
    async () => {
      const script = 'echo 4242 > /proc/self/loginuid; exec sleep 60';
      const held = await becomes(await run('setpriv', [...ordinary, '/bin/sh', '-c', script]), 'sleep');
      expect((await attest(held, ['loginuid'])).selectors).toEqual(['process:loginuid:4242']);
    },
  );
});

describe('T-A08 a user namespace', () => {
  const question = { wanted: { asks: () => false }, signal: forever, omit: () => undefined, recheck: () => undefined };
  const idsOf = async ({ peer }: HeldPeer): Promise<readonly string[]> => {
    const unix = createUnixAttestor({ clock: systemClock, overflow: undefined });
    const selectors = await unix.attest(peer, question);
    return selectors.filter((one) => /^unix:(?:uid|gid|user|group|supplementary_gid):/u.test(one));
  };
  /** Root in a namespace of its own whose ids are mapped as given. */
  const rootIn = async (outside: number, count: number): Promise<HeldPeer> => {
    const id = String(outside);
    const held = await runAs(['--reuid', id, '--regid', id, '--clear-groups'], 'unshare', ['--user', '/bin/sleep', '60']);
    for (const map of ['uid_map', 'gid_map']) writeFileSync(`/proc/${String(held.peer.pid)}/${map}`, `0 ${id} ${String(count)}\n`);
    return held;
  };

  it.skipIf(!hasSetpriv || !hasUnshare)('made by a user has that user’s ids for its root (needs root, setpriv, unshare)', async () => {
    const held = await runAs(ordinary, 'unshare', ['--user', '--map-root-user', '/bin/sleep', '60']);
    expect(readFileSync(`/proc/${String(held.peer.pid)}/uid_map`, 'utf8').trim().split(/ +/u)).toEqual(['0', '4001', '1']);
    expect(await idsOf(held)).toEqual(['unix:uid:4001', 'unix:gid:4001']);
    expect((await attest(held, ['namespace'])).selectors).not.toContain('process:namespace:user:host');
  });

  it.skipIf(!isRoot || !hasUnshare || !hasSetpriv).each([
    [100_000, 65_536],
    [100_000, 1],
    [165_535, 65_536],
  ])('whose ids begin at %i, of which there are %i, has host ids, also where maps overlap (needs root, setpriv, unshare)', async (outside, count) => {
    const held = await rootIn(outside, count);
    const { pid } = held.peer;
    const inside = spawnSync('nsenter', ['--user', '--target', String(pid), 'cat', `/proc/${String(pid)}/status`], { encoding: 'utf8' });
    expect(inside.stdout).toMatch(/^Uid:\t0\t0\t/mu);
    expect(await idsOf(held)).toEqual([`unix:uid:${String(outside)}`, `unix:gid:${String(outside)}`]);
  });
});
