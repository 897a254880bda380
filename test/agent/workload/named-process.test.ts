import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { afterEach, describe, expect, it } from 'vitest';
import { openNamedProcess, sharesPidNamespace } from '../../../agent/workload/named-process.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';

const over = new SpiffeError('unavailable', 'peer.closed', 'the test is over');
const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

function sleeper(...through: readonly string[]): ChildProcess & { readonly pid: number } {
  const child = spawn('env', [...through, 'sleep', '60'], { stdio: 'ignore' });
  children.push(child);
  return child as ChildProcess & { readonly pid: number };
}
async function end(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  await once(child, 'exit');
}
const descriptors = (): number => readdirSync('/proc/self/fd').length;

function canForce(): boolean {
  try {
    writeFileSync('/proc/sys/kernel/ns_last_pid', readFileSync('/proc/sys/kernel/ns_last_pid'));
    return true;
  } catch {
    return false;
  }
}
const withoutReuse = canForce() ? undefined : 'skipped: this kernel does not let the next process number be chosen';
const withoutNamespaces = spawnSync('unshare', ['--pid', '--fork', 'true']).status === 0 ? undefined : 'skipped: no process namespace can be made';

it('pins a process, and lets go of it', () => {
  const open = descriptors();
  const held = openNamedProcess(process.pid, 7);
  expect(held?.peer).toMatchObject({ pid: process.pid, uid: process.geteuid?.(), gid: process.getegid?.(), acceptedAt: 7 });
  expect(held?.peer.stillTheSame()).toBe(true);
  held?.close(over);
  held?.close(over);
  expect(held?.peer.signal.reason).toBe(over);
  expect(descriptors()).toBe(open);
});

describe('T-25: there is no process', () => {
  it.each([0, -1, -2_147_483_648, 2_147_483_647, 4_194_304, 1.5, Number.NaN, 2 ** 32 + 1])('%d', (pid) => {
    const open = descriptors();
    expect(openNamedProcess(pid, 0)).toBeUndefined();
    expect(descriptors()).toBe(open);
  });

  it('with the number of a thread', () => {
    const threads = readdirSync('/proc/self/task').map(Number).filter((thread) => thread !== process.pid);
    expect(threads.length).toBeGreaterThan(0);
    for (const thread of threads) expect(openNamedProcess(thread, 0)).toBeUndefined();
  });

  it('once it has ended, whether or not anybody has looked after it', async () => {
    // A shell that never waits, so that its child stays a zombie.
    const parent = spawn('/bin/sh', ['-c', 'sleep 0.1 & echo $!; exec sleep 60'], { stdio: ['ignore', 'pipe', 'ignore'] });
    children.push(parent);
    const [line] = (await once(parent.stdout, 'data')) as [Buffer];
    const zombie = Number(String(line));
    await expect.poll(() => readFileSync(`/proc/${String(zombie)}/stat`, 'utf8')).toContain(') Z ');
    expect(openNamedProcess(zombie, 0)).toBeUndefined();
    const gone = sleeper();
    await end(gone);
    expect(openNamedProcess(gone.pid, 0)).toBeUndefined();
  });
});

it('T-25: sees that the process has ended', async () => {
  const child = sleeper();
  const held = openNamedProcess(child.pid, 0);
  expect(held?.peer.exited()).toBe(false);
  await end(child);
  expect([held?.peer.exited(), held?.peer.stillTheSame()]).toEqual([true, 'peer.exited']);
  held?.close(over);
});

it.skipIf(withoutReuse !== undefined)(`T-25: a number that was given again is another process ${withoutReuse ?? ''}`, async () => {
  const child = sleeper();
  const held = openNamedProcess(child.pid, 0);
  await end(child);
  let heir: ChildProcess | undefined;
  for (let tries = 0; tries < 2_000 && heir?.pid !== child.pid; tries += 1) {
    heir?.kill('SIGKILL');
    writeFileSync('/proc/sys/kernel/ns_last_pid', String(child.pid - 1));
    heir = sleeper();
  }
  expect(heir?.pid).toBe(child.pid);
  expect(held?.peer.stillTheSame()).toBe('peer.exited');
  const other = openNamedProcess(child.pid, 0);
  expect(other?.peer.stillTheSame()).toBe(true);
  for (const one of [held, other]) one?.close(over);
});

it.skipIf(withoutNamespaces !== undefined)(`T-25: tells who counts processes otherwise ${withoutNamespaces ?? ''}`, async () => {
  const outer = sleeper('unshare', '--pid', '--fork');
  const children = `/proc/${String(outer.pid)}/task/${String(outer.pid)}/children`;
  await expect.poll(() => readFileSync(children, 'utf8')).not.toBe('');
  const inner = openNamedProcess(Number(readFileSync(children, 'utf8')), 0);
  const own = openNamedProcess(process.pid, 0);
  if (inner === undefined || own === undefined) throw new Error('no process');
  expect(sharesPidNamespace(own.peer)).toBe(true);
  expect(sharesPidNamespace(inner.peer)).toBe(false);
  for (const one of [inner, own]) one.close(over);
  // What is no process any more counts nothing.
  expect(sharesPidNamespace(own.peer)).toBe(false);
});
