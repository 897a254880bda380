import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { once } from 'node:events';
import process from 'node:process';
import { expect, it } from 'vitest';
import { withProcess } from '../../../agent/admin/look.ts';

it('holds on to a process while it is asked about, and lets go', async () => {
  const open = readdirSync('/proc/self/fd').length;
  const seen = await withProcess(process.pid, 1_000, async (peer) => ({ pid: peer.pid, uid: peer.uid, gid: peer.gid, same: peer.stillTheSame(), signal: peer.signal }));
  expect(seen).toMatchObject({ pid: process.pid, uid: process.geteuid?.(), gid: process.getegid?.(), same: true });
  expect(seen.signal.aborted).toBe(true);
  expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(open);
});

it('T-A01: sees that the process ended meanwhile', async () => {
  const child = spawn('/bin/sleep', ['60'], { stdio: 'ignore' });
  const same = await withProcess(child.pid ?? -1, 1_000, async (peer) => {
    expect(peer.stillTheSame()).toBe(true);
    child.kill('SIGKILL');
    await once(child, 'exit');
    return peer.stillTheSame();
  });
  expect(same).toBe('peer.exited');
});

it('lets go when asking fails', async () => {
  const open = readdirSync('/proc/self/fd').length;
  await expect(withProcess(process.pid, 1_000, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  expect(readdirSync('/proc/self/fd').length).toBe(open);
});

it.each([0, -1, 0x7fff_fffe])('there is no process %i', async (pid) => {
  await expect(withProcess(pid, 1_000, async () => undefined)).rejects.toMatchObject({ kind: 'missing', reason: 'explain.no-process' });
});
