import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFile,
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  realpath,
  rename,
  rm,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Omit, WantedSelectors } from '../../../../agent/workload/attestor.ts';
import { createUnixAttestor, parseStatus } from '../../../../agent/workload/attestors/unix.ts';
import type { UnixAttestor, UnixAttestorOptions } from '../../../../agent/workload/attestors/unix.ts';
import { systemClock } from '../../../../runtime/clock.ts';
import { effectiveUid } from '../../../../runtime/linux.ts';
import { peerOfProcess } from '../../../help/peer.ts';
import type { HeldPeer } from '../../../help/peer.ts';

const isRoot = effectiveUid() === 0;
const hasSetpriv = spawnSync('setpriv', ['--version'], { stdio: 'ignore' }).status === 0;
const forever = new AbortController().signal;
const nothing: WantedSelectors = { asks: () => false };
const hashes: WantedSelectors = { asks: (prefix) => prefix === 'unix:sha256:' };

let directory: string;
let children: ChildProcess[];
let peers: HeldPeer[];
let attestors: UnixAttestor[];
beforeEach(async () => {
  directory = await realpath(await mkdtemp(join(tmpdir(), 'steeple-unix-')));
  await writeFile(join(directory, 'passwd'), 'alice:x:4001:4001\n');
  await writeFile(join(directory, 'group'), 'staff:x:4001:\nops:x:4002:alice\n');
  [children, peers, attestors] = [[], [], []];
});
afterEach(async () => {
  for (const peer of peers) peer.close();
  for (const child of children) {
    const exit = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined;
    child.kill('SIGKILL');
    await exit;
  }
  await Promise.all(attestors.map((attestor) => attestor.stop()));
  await rm(directory, { recursive: true, force: true });
});

function attestor(more: Partial<UnixAttestorOptions> = {}): UnixAttestor {
  const one = createUnixAttestor({
    clock: systemClock,
    passwdFile: join(directory, 'passwd'),
    groupFile: join(directory, 'group'),
    overflow: undefined,
    ...more,
  });
  attestors.push(one);
  return one;
}

async function run(file: string, args: readonly string[] = ['60']): Promise<HeldPeer> {
  const child = spawn(file, args, { stdio: 'ignore' });
  children.push(child);
  await once(child, 'spawn');
  return hold(child.pid ?? -1);
}

function hold(pid: number): HeldPeer {
  const held = peerOfProcess(pid);
  peers.push(held);
  return held;
}

/** Waits until the process has become the program of this name. */
async function becomes({ peer }: HeldPeer, name: string): Promise<void> {
  while ((await readFile(`/proc/${String(peer.pid)}/comm`, 'latin1')) !== `${name}\n`) await systemClock.sleep(2);
}

/** A program of its own that sleeps. */
async function sleeper(name: string): Promise<string> {
  const path = join(directory, name);
  await copyFile('/bin/sleep', path);
  return path;
}

interface Facts {
  readonly selectors: readonly string[];
  readonly omitted: Readonly<Record<string, string>>;
  readonly until: Promise<unknown> | undefined;
}

async function attest(one: UnixAttestor, { peer }: HeldPeer, wanted: WantedSelectors = nothing): Promise<Facts> {
  const omitted: Record<string, string> = {};
  let until: Promise<unknown> | undefined;
  const omit: Omit = (what, reason, promise) => {
    omitted[what] = reason;
    until = promise;
  };
  const selectors = await one.attest(peer, { wanted, signal: forever, omit, recheck: () => undefined });
  return { selectors, omitted, until };
}

describe('ids and names', () => {
  it.skipIf(!isRoot || !hasSetpriv)('are the effective ones, written as SPIRE writes them (needs root, setpriv)', async () => {
    const options = ['--ruid', '4009', '--euid', '4001', '--rgid', '4009', '--egid', '4001', '--groups', '4002,4003'];
    const held = await run('setpriv', [...options, '/bin/sleep', '60']);
    await becomes(held, 'sleep');
    const { selectors, omitted } = await attest(attestor(), hold(held.peer.pid));
    expect(selectors.filter((one) => !one.startsWith('unix:path:'))).toEqual([
      'unix:uid:4001',
      'unix:gid:4001',
      'unix:supplementary_gid:4002',
      'unix:supplementary_gid:4003',
      'unix:user:alice',
      'unix:group:staff',
      'unix:supplementary_group:ops',
    ]);
    expect(omitted).toEqual({});
  });

  it('names that cannot be had cost nothing else', async () => {
    const held = await run('/bin/sleep');
    const { selectors, omitted } = await attest(attestor({ passwdFile: directory }), held);
    expect(selectors).toContain(`unix:uid:${String(effectiveUid())}`);
    expect(selectors.some((one) => one.startsWith('unix:user:'))).toBe(false);
    expect(omitted['unix:user']).toBe('unix.names.unreadable');
  });

  it.skipIf(!isRoot || !hasSetpriv)('T-A15 a process in too many groups is refused (needs root, setpriv)', async () => {
    const groups = Array.from({ length: 200 }, (_, index) => String(5000 + index)).join(',');
    const held = await run('setpriv', ['--groups', groups, '/bin/sleep', '60']);
    await becomes(held, 'sleep');
    const same = hold(held.peer.pid);
    const refused = { kind: 'limited', reason: 'unix.groups.too-many' };
    await expect(attest(attestor({ groupLimit: 199 }), same)).rejects.toMatchObject(refused);
    expect((await attest(attestor({ groupLimit: 200 }), same)).selectors).toContain('unix:supplementary_gid:5199');
  });

  it('T-A08 in a user namespace of our own, ids from outside are nobody’s', async () => {
    const uid = effectiveUid();
    const nobody = 4_000_000_000;
    const held = await run('/bin/sleep');
    const refused = attest(attestor({ overflow: { uid, gid: nobody } }), held);
    await expect(refused).rejects.toMatchObject({ kind: 'denied', reason: 'unix.ids.unmapped' });
    const mapped = await attest(attestor({ overflow: { uid: nobody, gid: nobody } }), held);
    expect(mapped.selectors).toContain(`unix:uid:${String(uid)}`);
  });

  it.skipIf(!isRoot || !hasSetpriv)('T-A08 a supplementary group from outside is left out (needs root, setpriv)', async () => {
    const held = await run('setpriv', ['--groups', '4002,4003', '/bin/sleep', '60']);
    await becomes(held, 'sleep');
    const { selectors, omitted } = await attest(attestor({ overflow: { uid: 4003, gid: 4003 } }), hold(held.peer.pid));
    expect(selectors.filter((one) => one.includes('supplementary'))).toEqual([
      'unix:supplementary_gid:4002',
      'unix:supplementary_group:ops',
    ]);
    expect(omitted).toEqual({ 'unix:supplementary_gid': 'unix.ids.unmapped' });
  });

  it('T-A19 a process that is gone has no facts', async () => {
    const held = await run('/bin/sleep');
    const child = children[0]!;
    const exit = once(child, 'exit');
    child.kill('SIGKILL');
    await exit;
    await expect(attest(attestor(), held)).rejects.toMatchObject({ kind: 'unavailable', reason: 'unix.process.hidden' });
  });
});

describe('parseStatus', () => {
  const text = (name: string, groups = '4 5 4'): string =>
    `Name:\t${name}\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\n` +
    `Groups:\t${groups} \nNStgid:\t9\n`;

  it('reads effective ids and groups without repeats', () => {
    expect(parseStatus(text('sh'), 10)).toEqual({ uid: 2, gid: 6, groups: [4, 5] });
    expect(parseStatus(text('sh', ''), 10)).toEqual({ uid: 2, gid: 6, groups: [] });
  });

  it('T-A15 is not led astray by a name', () => {
    expect(parseStatus(text('Uid:\t0\t0\t0\t0'), 10).uid).toBe(2);
    expect(parseStatus(text('x\\nUid:\t0\t0\t0\t0'), 10).uid).toBe(2);
  });

  it('T-A15 refuses 65,536 groups', () => {
    const many = Array.from({ length: 65_536 }, (_, gid) => String(gid)).join(' ');
    expect(() => parseStatus(text('sh', many), 1024)).toThrow(expect.objectContaining({ reason: 'unix.groups.too-many' }));
  });

  it.each([
    '',
    'Name:\tsh\n',
    text('sh').replace('\t2\t', '\t-2\t'),
    text('sh').replace('\t2\t', '\t4294967296\t'),
    text('sh').replace('Uid:\t1\t2\t3\t4', 'Uid:\t1'),
    text('sh', 'x'),
  ])('refuses what is not of the form: %j', (broken) => {
    expect(() => parseStatus(broken, 10)).toThrow(expect.objectContaining({ kind: 'internal', reason: 'unix.status.form' }));
  });
});

describe('path', () => {
  const pathsOf = ({ selectors }: Facts): readonly string[] => selectors.filter((one) => one.startsWith('unix:path:'));

  const names = ['plain', 'with blank', 'colon:in:it', 'naïve-✓', '(deleted)', 'honest (deleted)'];

  it.each(names)('is the executable’s: %s', async (name) => {
    const path = await sleeper(name);
    const facts = await attest(attestor(), await run(path));
    expect(pathsOf(facts)).toEqual([`unix:path:${path}`]);
    expect(facts.omitted).toEqual({});
  });

  it('T-A05 is not that of a link to it, nor of a script', async () => {
    const path = await sleeper('app');
    await symlink(path, join(directory, 'link'));
    expect(pathsOf(await attest(attestor(), await run(join(directory, 'link'))))).toEqual([`unix:path:${path}`]);
    const tail = await realpath('/usr/bin/tail');
    await writeFile(join(directory, 'script'), `#!${tail} -f\n`, { mode: 0o755 });
    expect(pathsOf(await attest(attestor(), await run(join(directory, 'script'), [])))).toEqual([`unix:path:${tail}`]);
  });

  it.each([
    ['a line end', 'two\nlines'],
    ['an escape', 'a\u001b[31mb'],
    ['a line separator', 'a\u2028b'],
  ])('T-A15 with %s is refused, not mangled', async (_, name) => {
    const facts = await attest(attestor(), await run(await sleeper(name)));
    expect(pathsOf(facts)).toEqual([]);
    expect(facts.omitted['unix:path']).toBe('unix.path.control-character');
    expect(facts.selectors).toContain(`unix:uid:${String(effectiveUid())}`);
  });

  it('T-A15 that is no UTF-8 is refused, not mangled', async () => {
    await mkdir(join(directory, 'sub'));
    await copyFile('/bin/sleep', Buffer.concat([Buffer.from(`${directory}/sub/`), Buffer.from([0x61, 0xff])]));
    const held = await run('/bin/sh', ['-c', `exec ${directory}/sub/* 60`]);
    await becomes(held, 'a\u00ff');
    const facts = await attest(attestor(), hold(held.peer.pid));
    expect(facts.omitted['unix:path']).toBe('unix.path.encoding');
    expect(pathsOf(facts)).toEqual([]);
  });

  it('T-A05 that was deleted or replaced is refused, whatever stands there now', async () => {
    const path = await sleeper('app');
    const held = await run(path);
    const other = await sleeper('other');
    await rename(other, path);
    const replaced = await attest(attestor(), held);
    expect(replaced.omitted['unix:path']).toBe('unix.path.deleted');
    expect(pathsOf(replaced)).toEqual([]);
    // A file that bears the very name the kernel shows is still another file.
    await sleeper('app (deleted)');
    expect((await attest(attestor(), held)).omitted['unix:path']).toBe('unix.path.deleted');
  });
});

describe('sha256', () => {
  const hashOf = ({ selectors }: Facts): string | undefined => selectors.find((one) => one.startsWith('unix:sha256:'));
  const digest = async (path: string): Promise<string> => createHash('sha256').update(await readFile(path)).digest('hex');

  it('is not worked out unless an entry asks', async () => {
    const facts = await attest(attestor(), await run('/bin/sleep'));
    expect(hashOf(facts)).toBeUndefined();
    expect(facts.omitted).toEqual({});
  });

  it('T-A06 never delays the rest: it is there when asked again', async () => {
    const one = attestor();
    const held = await run('/bin/sleep');
    const first = await attest(one, held, hashes);
    expect(hashOf(first)).toBeUndefined();
    expect(first.omitted['unix:sha256']).toBe('unix.sha256.pending');
    expect(first.selectors).toContain(`unix:uid:${String(effectiveUid())}`);
    await first.until;
    const second = await attest(one, held, hashes);
    expect(hashOf(second)).toBe(`unix:sha256:${await digest('/bin/sleep')}`);
    expect(second.omitted).toEqual({});
    expect(hashOf(await attest(one, await run('/bin/sleep'), hashes))).toBe(hashOf(second));
  });

  it('T-A05 is of the running image, whatever its path holds now', async () => {
    const one = attestor();
    const path = await sleeper('app');
    const honest = await digest(path);
    const held = await run(path);
    const other = await sleeper('other');
    await appendFile(other, 'evil');
    await rename(other, path);
    await (await attest(one, held, hashes)).until;
    expect(hashOf(await attest(one, held, hashes))).toBe(`unix:sha256:${honest}`);
  });

  it('T-A05 of a file changed a moment ago is not remembered for the next process', async () => {
    const one = attestor();
    const path = await sleeper('app');
    await utimes(path, new Date(0), new Date(0));
    const held = await run(path);
    await (await attest(one, held, hashes)).until;
    expect(hashOf(await attest(one, held, hashes))).toBe(`unix:sha256:${await digest(path)}`);
    expect((await attest(one, await run(path), hashes)).omitted['unix:sha256']).toBe('unix.sha256.pending');
  });

  it('T-A06 a giant file is refused by its size and one below is not starved by others', async () => {
    const giant = await sleeper('giant');
    await truncate(giant, 8 * 1024 ** 3);
    const held = await run(giant);
    expect((await attest(attestor(), held, hashes)).omitted['unix:sha256']).toBe('unix.sha256.too-large');
    const large = attestor({ hashLimitBytes: 16 * 1024 ** 3 });
    expect((await attest(large, held, hashes)).omitted['unix:sha256']).toBe('unix.sha256.pending');
    const small = await run('/bin/sleep');
    await (await attest(large, small, hashes)).until;
    expect(hashOf(await attest(large, small, hashes))).toBe(`unix:sha256:${await digest('/bin/sleep')}`);
    expect((await attest(large, held, hashes)).omitted['unix:sha256']).toBe('unix.sha256.pending');
    await large.stop();
  });

  it('T-A06 one user has a bounded number of files waiting', async () => {
    const one = attestor({ hashLimitBytes: 16 * 1024 ** 3 });
    const reasons: (string | undefined)[] = [];
    let last: Facts | undefined;
    for (let n = 0; n < 9; n += 1) {
      const path = await sleeper(`app-${String(n)}`);
      await truncate(path, 4 * 1024 ** 3 + n);
      last = await attest(one, await run(path), hashes);
      reasons.push(last.omitted['unix:sha256']);
    }
    expect(reasons).toEqual([...Array.from({ length: 8 }, () => 'unix.sha256.pending'), 'unix.sha256.queued']);
    // Giving up one that waits lets the next in.
    peers[0]!.close();
    peers.shift();
    await last?.until;
    expect((await attest(one, peers.at(-1)!, hashes)).omitted['unix:sha256']).toBe('unix.sha256.pending');
  });

  it('stopping tells whoever waits', async () => {
    const one = attestor({ hashLimitBytes: 16 * 1024 ** 3 });
    const path = await sleeper('app');
    await truncate(path, 8 * 1024 ** 3);
    const held = await run(path);
    const { until } = await attest(one, held, hashes);
    await one.stop();
    await until;
    expect((await attest(one, held, hashes)).omitted['unix:sha256']).toBe('unix.sha256.stopped');
  });
});
