import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, mkdtemp, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { signalByPidFile } from '../../runtime/pid-file.ts';

let base: string;
let pidFile: string;
const children: ChildProcess[] = [];
beforeEach(async () => {
  base = await mkdtemp(path.join(tmpdir(), 'steeple-pid-'));
  pidFile = path.join(base, 'pid');
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await rm(base, { recursive: true, force: true });
});

/** A process that says each HUP it gets, and its number in the file. */
async function daemon(uid?: number): Promise<{ readonly pid: number; readonly heard: () => Promise<string> }> {
  const code = "process.on('SIGHUP', () => console.log('heard')); setInterval(() => 0, 1000); console.log('up')";
  const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'pipe', 'inherit'], ...(uid !== undefined && { uid, gid: uid }) });
  children.push(child);
  child.stdout.setEncoding('utf8');
  const line = async (): Promise<string> => String((await once(child.stdout, 'data'))[0]).trim();
  expect(await line()).toBe('up');
  const pid = child.pid ?? -1;
  await writeFile(pidFile, `${String(pid)}\n`);
  return { pid, heard: line };
}

const isRoot = process.geteuid?.() === 0;
const hup = (more: object = {}): Promise<void> => signalByPidFile({ signal: 'HUP', pidFile, ...more });

describe('a signal by pid-file', () => {
  it('reaches the process', async () => {
    const { heard } = await daemon();
    const said = heard();
    await hup();
    expect(await said).toBe('heard');
  });

  it('reaches one that must run a program and does', async () => {
    const { pid, heard } = await daemon();
    // As postmaster.pid goes on.
    await writeFile(pidFile, `${String(pid)}\n/var/lib/data\n1234567\n`);
    const said = heard();
    await hup({ executable: process.execPath });
    expect(await said).toBe('heard');
  });

  it('does not reach one that runs another program', async () => {
    await daemon();
    await expect(hup({ executable: '/usr/sbin/nginx' })).rejects.toMatchObject({ kind: 'conflict', reason: 'pid-file.executable' });
  });

  it('does not reach one that is younger than the file, unless it is known by its program', async () => {
    const { heard } = await daemon();
    const hourAgo = Date.now() / 1000 - 3600;
    await utimes(pidFile, hourAgo, hourAgo);
    await expect(hup()).rejects.toMatchObject({ kind: 'conflict', reason: 'pid-file.stale' });
    const said = heard();
    await hup({ executable: process.execPath });
    expect(await said).toBe('heard');
  });

  it('does not reach one that is gone', async () => {
    const { pid } = await daemon();
    const [child] = children;
    child?.kill('SIGKILL');
    await once(child!, 'exit');
    await writeFile(pidFile, String(pid));
    await expect(hup()).rejects.toMatchObject({ kind: 'missing', reason: 'pid-file.no-process' });
  });

  it.each(['', 'x', '-1', '0', '1', '12 34', '99999999999', ' \n4711'])('is refused for a file that says %j', async (text) => {
    await writeFile(pidFile, text);
    await expect(hup()).rejects.toMatchObject({ kind: 'invalid', reason: 'pid-file.malformed' });
  });

  it('is refused without a file, or for something else', async () => {
    await expect(hup()).rejects.toMatchObject({ kind: 'missing', reason: 'pid-file.missing' });
    await expect(signalByPidFile({ signal: 'HUP', pidFile: base })).rejects.toMatchObject({ reason: 'pid-file.malformed' });
  });

  it('is refused for a file that everybody may write', async () => {
    await daemon();
    await chmod(pidFile, 0o666);
    await expect(hup()).rejects.toMatchObject({ kind: 'denied', reason: 'pid-file.owner' });
  });

  it.skipIf(!isRoot)('reaches processes of the file’s owner, and no other user’s', async () => {
    await daemon();
    await chown(pidFile, 4242, 4242);
    await expect(hup()).rejects.toMatchObject({ kind: 'denied', reason: 'pid-file.owner' });
    const { heard } = await daemon(4242);
    await chown(pidFile, 4242, 4242);
    const said = heard();
    await hup();
    expect(await said).toBe('heard');
  });

  describe.skipIf(!isRoot)('in a directory of another user', () => {
    const theirs = 4242;
    let inside: string;
    beforeEach(async () => {
      await mkdir(path.join(base, 'theirs'));
      inside = path.join(base, 'theirs', 'pid');
    });

    it.each(['a link to a file', 'a link to a directory'])('%s of ours reaches no process of ours', async (form) => {
      await daemon();
      await (form === 'a link to a file' ? symlink(pidFile, inside) : symlink(base, path.join(base, 'theirs', 'further')));
      const named = form === 'a link to a file' ? inside : path.join(base, 'theirs', 'further', 'pid');
      await chown(path.join(base, 'theirs'), theirs, theirs);
      await expect(hup({ pidFile: named })).rejects.toMatchObject({ kind: 'denied', reason: 'pid-file.link' });
    });

    it('a link of ours into it is no way either, as what is there may be a link by then', async () => {
      const { pid } = await daemon();
      await writeFile(inside, String(pid));
      await chown(path.join(base, 'theirs'), theirs, theirs);
      await rm(pidFile);
      await symlink(inside, pidFile);
      await expect(hup()).rejects.toMatchObject({ reason: 'pid-file.link', message: expect.stringContaining(`write ${inside}`) });
    });

    it('a file that we wrote there reaches our process', async () => {
      const { pid, heard } = await daemon();
      await writeFile(inside, String(pid));
      await chown(path.join(base, 'theirs'), theirs, theirs);
      const said = heard();
      await hup({ pidFile: inside });
      expect(await said).toBe('heard');
    });

    it('a file of theirs reaches their process', async () => {
      const { pid, heard } = await daemon(theirs);
      await writeFile(inside, String(pid));
      for (const name of [inside, path.join(base, 'theirs')]) await chown(name, theirs, theirs);
      const said = heard();
      await hup({ pidFile: inside });
      expect(await said).toBe('heard');
    });
  });
});
