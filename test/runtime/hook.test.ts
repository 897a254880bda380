import { existsSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../runtime/clock.ts';
import { hookPath, runHook } from '../../runtime/hook.ts';

let base: string;
beforeEach(async () => {
  base = await mkdtemp(path.join(tmpdir(), 'steeple-hook-'));
});
afterEach(async () => {
  await rm(base, { recursive: true, force: true });
});

const never = new AbortController().signal;

async function script(text: string, mode = 0o755): Promise<string> {
  const file = path.join(base, 'hook');
  await writeFile(file, `#!/bin/sh\n${text}\n`);
  await chmod(file, mode);
  return file;
}

function run(command: readonly [string, ...string[]], timeoutMs = 10_000, signal = never, env = {}): Promise<void> {
  return runHook({ command, env, timeoutMs }, systemClock, signal);
}

/** A zombie that nobody fetches is not. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\t[ZX]/m.test(readFileSync(`/proc/${String(pid)}/status`, 'utf8'));
  } catch {
    return false;
  }
}

describe('a hook', () => {
  it('gets its arguments as they are, and nothing of the surroundings but a path', async () => {
    vi.stubEnv('STEEPLE_SECRET_OF_THE_TEST', 'yes');
    const hook = await script(`printf '%s\\n' "$@" > ${base}/args; env > ${base}/env; pwd > ${base}/pwd`);
    await run([hook, '$(id)', 'a b', '*', "'"], 10_000, never, { STEEPLE_CHANGE: 'updated' });
    expect(await readFile(path.join(base, 'args'), 'utf8')).toBe("$(id)\na b\n*\n'\n");
    const names = (await readFile(path.join(base, 'env'), 'utf8')).trim().split('\n').map((line) => line.split('=')[0]);
    // Those of the shell itself do not count.
    expect(new Set(names.filter((name) => !['PWD', 'OLDPWD', '_', 'SHLVL'].includes(name ?? '')))).toEqual(new Set(['PATH', 'STEEPLE_CHANGE']));
    expect(await readFile(path.join(base, 'env'), 'utf8')).toContain(`PATH=${hookPath}\n`);
    expect(await readFile(path.join(base, 'pwd'), 'utf8')).toBe('/\n');
    vi.unstubAllEnvs();
  });

  it('is looked up by its name in the path of hooks', async () => {
    await run(['true']);
    await expect(run(['no-such-program-of-any-name'])).rejects.toMatchObject({ kind: 'missing', reason: 'hook.missing' });
  });

  it.each<[string, string, string]>([
    ['an exit code', 'echo "it is wrong" >&2; exit 3', 'exit code 3: it is wrong'],
    ['a signal', 'kill -KILL $$', 'signal SIGKILL'],
  ])('that ends with %s failed, and says how', async (_what, text, said) => {
    const hook = await script(text);
    await expect(run([hook])).rejects.toMatchObject({ kind: 'unavailable', reason: 'hook.failed', message: `${hook} ended with ${said}` });
  });

  it('that says much is heard in part and not held up', async () => {
    const hook = await script('i=0; while [ $i -lt 3000 ]; do echo "line after line after line of it" >&2; i=$((i+1)); done; exit 1');
    const error = (await run([hook]).catch((caught: unknown) => caught)) as Error;
    expect(error.message.length).toBeLessThan(1_200);
  });

  it('that does not end is ended with all that it started', async () => {
    const hook = await script(`trap '' TERM; sleep 60 & echo $! > ${base}/child; echo $$ > ${base}/pid; wait; sleep 60`);
    await expect(run([hook], 400)).rejects.toMatchObject({ kind: 'unavailable', reason: 'hook.deadline' });
    for (const name of ['child', 'pid']) {
      const pid = Number(await readFile(path.join(base, name), 'utf8'));
      await vi.waitFor(() => expect(isAlive(pid)).toBe(false));
    }
  });

  it('that leaves a daemon behind has ended', async () => {
    const hook = await script(`sleep 60 & echo $! > ${base}/child`);
    const beganAt = performance.now();
    await run([hook]);
    expect(performance.now() - beganAt).toBeLessThan(9_000);
    process.kill(Number(await readFile(path.join(base, 'child'), 'utf8')));
  });

  it('is ended when its caller is told to stop', async () => {
    const hook = await script(`echo $$ > ${base}/pid; sleep 60`);
    const stop = new AbortController();
    const running = run([hook], 60_000, stop.signal);
    running.catch(() => undefined);
    await vi.waitFor(() => expect(existsSync(path.join(base, 'pid'))).toBe(true), { timeout: 5_000 });
    await sleep(50);
    const reason = new Error('stop');
    stop.abort(reason);
    await expect(running).rejects.toBe(reason);
    await expect(run([hook], 60_000, stop.signal)).rejects.toBe(reason);
  });

  it('that others may write is not run', async () => {
    const hook = await script(`touch ${base}/ran`, 0o777);
    await expect(run([hook])).rejects.toMatchObject({ kind: 'denied', reason: 'hook.writable' });
    expect(existsSync(path.join(base, 'ran'))).toBe(false);
  });

  it.each<[string, () => Promise<string>]>([
    ['in a directory that others may write', async () => (await chmod(base, 0o777), path.join(base, 'hook'))],
    [
      'behind a link in a directory that others may write',
      async () => {
        const open = path.join(base, 'open');
        await mkdir(open);
        await chmod(open, 0o777);
        await symlink(path.join(base, 'hook'), path.join(open, 'link'));
        return path.join(open, 'link');
      },
    ],
    [
      'in a directory that others may write, behind a link',
      async () => {
        const open = path.join(base, 'open');
        await mkdir(open);
        await rename(path.join(base, 'hook'), path.join(open, 'hook'));
        await chmod(open, 0o777);
        await symlink(path.join(open, 'hook'), path.join(base, 'link'));
        return path.join(base, 'link');
      },
    ],
  ])('that others may put another in the place of is not run: %s', async (_what, place) => {
    await script(`touch ${base}/ran`);
    await expect(run([await place()])).rejects.toMatchObject({ kind: 'denied', reason: 'hook.writable' });
    expect(existsSync(path.join(base, 'ran'))).toBe(false);
  });

  it('may be behind links that are root’s', async () => {
    await symlink('/bin/true', path.join(base, 'link'));
    await run([path.join(base, 'link')]);
  });

  it.each<[string, () => Promise<string>]>([
    ['is not there', () => Promise.resolve(path.join(base, 'none'))],
    ['cannot be run', () => script('true', 0o644)],
  ])('that %s is missing', async (_what, make) => {
    await expect(run([await make()])).rejects.toMatchObject({ kind: 'missing', reason: 'hook.missing' });
  });
});
