import { spawnSync } from 'node:child_process';
import { chmod, chown, lstat, mkdir, mkdtemp, open, readdir, readFile, readlink, realpath, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createSecretDirectory, isFileName, type SecretDirectory, type SecretDirectoryOptions } from '../../runtime/secret-files.ts';
import { pairOf } from '../help/secret-pair.ts';

const writer = path.join(import.meta.dirname, '..', 'help', 'secret-writer.ts');
const isRoot = process.geteuid?.() === 0;

let base: string;
let place: string;
const opened: SecretDirectory[] = [];
beforeEach(async () => {
  base = await realpath(await mkdtemp(path.join(tmpdir(), 'steeple-secrets-')));
  place = path.join(base, 'tls');
});
afterEach(async () => {
  for (const directory of opened.splice(0)) await directory.close();
  await rm(base, { recursive: true, force: true });
});

function directoryAt(at: string = place, more: Partial<SecretDirectoryOptions> = {}): SecretDirectory {
  const directory = createSecretDirectory({ path: at, ...more });
  opened.push(directory);
  return directory;
}

const file = (name: string): string => path.join(place, name);

/** What a program finds that opens both, or `nothing` where it finds none of them. */
async function seen(): Promise<string> {
  const texts = await Promise.all(['svid.pem', 'key.pem'].map((name) => readFile(file(name), 'utf8').catch(() => undefined)));
  const [certificate, key] = texts.map((text) => text?.split(' ')[1]);
  if (certificate === undefined || key === undefined) return 'nothing';
  return certificate === key ? certificate : `a certificate of ${certificate} and a key of ${key}`;
}

async function hidden(): Promise<readonly string[]> {
  return (await readdir(place)).filter((name) => name.startsWith('.'));
}

describe('a set of files', () => {
  it('is there as a whole, each file with its mode, and is known again', async () => {
    const directory = directoryAt();
    expect(await directory.state(pairOf('one'), 'web')).toBe('other');
    await directory.replace(pairOf('one'));
    expect(await seen()).toBe('one');
    expect((await stat(file('key.pem'))).mode & 0o7777).toBe(0o600);
    expect((await stat(file('svid.pem'))).mode & 0o7777).toBe(0o644);
    expect((await stat(place)).mode & 0o7777).toBe(0o755);
    expect(await directory.state(pairOf('one'), 'web')).toBe('written');
    await directory.settle('web');
    expect(await directory.state(pairOf('one'), 'web')).toBe('settled');
    // Somebody else was not told.
    expect(await directory.state(pairOf('one'), 'db')).toBe('written');
    expect(await directory.state(pairOf('two'), 'web')).toBe('other');
  });

  it('has its modes under any umask', async () => {
    const before = process.umask(0o777);
    try {
      await directoryAt().replace(pairOf('one'));
    } finally {
      process.umask(before);
    }
    expect((await stat(file('svid.pem'))).mode & 0o7777).toBe(0o644);
    expect((await stat(place)).mode & 0o7777).toBe(0o755);
  });

  it('stays readable to who opened the generation before, until it is settled', async () => {
    const directory = directoryAt();
    await directory.replace(pairOf('one'));
    const before = path.join(place, await readlink(file('current')));
    await directory.replace(pairOf('two'));
    expect(await seen()).toBe('two');
    expect(await readFile(path.join(before, 'key.pem'), 'utf8')).toBe('key one');
    await directory.settle('web');
    await expect(stat(before)).rejects.toMatchObject({ code: 'ENOENT' });
    expect(await hidden()).toHaveLength(1);
  });

  it('is one generation for who resolves it first, whatever is written meanwhile', async () => {
    const directory = directoryAt();
    await directory.replace(pairOf('0'));
    let over = false;
    const mixed: string[] = [];
    const read = async (): Promise<void> => {
      while (!over) {
        try {
          const at = await realpath(file('current'));
          const [certificate, key] = await Promise.all(['svid.pem', 'key.pem'].map((name) => readFile(path.join(at, name), 'utf8')));
          if (certificate?.split(' ')[1] !== key?.split(' ')[1]) mixed.push(`${certificate} ${key}`);
        } catch (error) {
          // Two generations went by between resolving and reading.
          expect(error).toMatchObject({ code: 'ENOENT' });
        }
      }
    };
    const readers = [read(), read(), read()];
    for (let turn = 1; turn <= 30; turn += 1) await directory.replace(pairOf(String(turn)));
    over = true;
    await Promise.all(readers);
    expect(mixed).toEqual([]);
  });

  it('takes on names and loses them', async () => {
    const directory = directoryAt();
    await directory.replace(pairOf('one'));
    await directory.replace([...pairOf('two').slice(1), { name: 'token.jwt', content: 't', mode: 0o600 }]);
    expect((await readdir(place)).filter((name) => !name.startsWith('.')).toSorted()).toEqual(['current', 'key.pem', 'token.jwt']);
    expect(await readFile(file('token.jwt'), 'utf8')).toBe('t');
  });

  it.each<[string, () => Promise<unknown>]>([
    ['a name was removed', () => rm(file('key.pem'))],
    ['its directory was removed', () => rm(place, { recursive: true })],
    ['a text was changed', () => writeFile(file('svid.pem'), 'certificate other')],
    ['a mode was changed', () => chmod(file('key.pem'), 0o644)],
    ['a file was added beside the others', () => writeFile(path.join(place, 'current', 'more'), '')],
  ])('is written again after %s', async (_what, spoil) => {
    const directory = directoryAt();
    await directory.replace(pairOf('one'));
    await directory.settle('web');
    await spoil();
    expect(await directory.state(pairOf('one'), 'web')).toBe('other');
    await directory.replace(pairOf('one'));
    expect(await seen()).toBe('one');
    expect(await directory.state(pairOf('one'), 'web')).toBe('written');
  });

  it('can be cleared, leaving what is not its own', async () => {
    const directory = directoryAt();
    expect(await directory.clear()).toBe(false);
    await directory.replace(pairOf('one'));
    await writeFile(file('notes'), 'mine');
    expect(await directory.clear()).toBe(true);
    expect(await readdir(place)).toEqual(['notes']);
    expect(await directory.clear()).toBe(false);
  });

  it.skipIf(!isRoot)('is given to a user and a group, and taken back for another', async () => {
    const owned = directoryAt(place, { owner: () => Promise.resolve({ uid: 4242, gid: 4343 }) });
    await owned.replace(pairOf('one'));
    expect(await stat(file('key.pem'))).toMatchObject({ uid: 4242, gid: 4343, mode: 0o100600 });
    expect(await stat(path.join(place, 'current'))).toMatchObject({ uid: 0 });
    await owned.close();
    const other = directoryAt(place, { owner: () => Promise.resolve({ uid: 4244 }) });
    expect(await other.state(pairOf('one'), 'web')).toBe('other');
  });
});

describe('a crash', () => {
  const run = (...args: readonly string[]): { readonly signal: NodeJS.Signals | null; readonly stdout: string } => {
    const { signal, stdout, stderr } = spawnSync(process.execPath, [writer, place, ...args], { encoding: 'utf8' });
    if (signal === null && stderr !== '') throw new Error(stderr);
    return { signal, stdout };
  };

  it('before any step leaves one generation whole, and the next writer goes on', { timeout: 60_000 }, async () => {
    const first = Number(run('0').stdout);
    const steps = Number(run('1').stdout);
    expect(first).toBeGreaterThanOrEqual(9);
    expect(steps).toBeGreaterThanOrEqual(7);
    const outcomes = new Set<string>();
    for (let step = 1; step <= steps; step += 1) {
      const before = await seen();
      const next = `${String(step)}-new`;
      expect(run(next, String(step)).signal, `step ${String(step)}`).toBe('SIGKILL');
      const now = await seen();
      outcomes.add(now === before ? 'old' : now === next ? 'new' : now);
      const directory = directoryAt();
      await directory.replace(pairOf(`${String(step)}-next`));
      await directory.settle('web');
      await directory.close();
      expect(await seen()).toBe(`${String(step)}-next`);
      expect(await hidden()).toHaveLength(1);
    }
    expect([...outcomes].toSorted()).toEqual(['new', 'old']);
  });

  it('before any step of the first set leaves nothing or all of it', { timeout: 60_000 }, async () => {
    const steps = Number(run('0').stdout);
    for (let step = 1; step <= steps; step += 1) {
      await rm(place, { recursive: true });
      expect(run('0', String(step)).signal).toBe('SIGKILL');
      expect(['nothing', '0']).toContain(await seen());
    }
  });
});

describe('a directory', () => {
  const refusal = (reason: string): object => ({ reason });

  it('is not written to while another process does', async () => {
    await directoryAt().replace(pairOf('one'));
    await expect(directoryAt().replace(pairOf('two'))).rejects.toMatchObject({ kind: 'conflict', reason: 'secret-files.in-use' });
  });

  it.each<[string, string, () => Promise<string>]>([
    ['is a link', 'files.not-directory', async () => (await symlink(base, place), place)],
    ['is reached through a link', 'secret-files.path', async () => (await symlink(base, path.join(base, 'link')), path.join(base, 'link', 'tls'))],
    ['is a file', 'files.not-directory', async () => (await writeFile(place, ''), place)],
    ['others may write', 'secret-files.writable', async () => (await mkdir(place), await chmod(place, 0o777), place)],
    ['its group may write', 'secret-files.writable', async () => (await mkdir(place), await chmod(place, 0o770), place)],
    ['is below one that others may write', 'secret-files.writable', async () => (await chmod(base, 0o777), place)],
    ['is below one that is missing', 'files.missing', async () => Promise.resolve(path.join(base, 'none', 'tls'))],
    ['is not absolute', 'secret-files.not-absolute', async () => Promise.resolve('tls')],
    ['climbs', 'secret-files.not-absolute', async () => Promise.resolve(`${base}/a/../tls`)],
    ['has a file in the place of a name', 'secret-files.in-the-way', async () => (await mkdir(place), await writeFile(file('key.pem'), 'precious'), place)],
    ['has a link to elsewhere in the place of a name', 'secret-files.in-the-way', async () => (await mkdir(place), await symlink('/etc/passwd', file('svid.pem')), place)],
    ['has something else for its generation', 'secret-files.in-the-way', async () => (await mkdir(place), await symlink('/etc', file('current')), place)],
  ])('is refused that %s', async (_what, reason, prepare) => {
    const at = await prepare();
    await expect(directoryAt(at).replace(pairOf('one'))).rejects.toMatchObject(refusal(reason));
    const left = await readdir(base, { recursive: true });
    expect(left.filter((name) => name.includes('.generation') || name.includes('.draft'))).toEqual([]);
    if (reason === 'secret-files.in-the-way' && left.includes('tls/key.pem')) expect(await readFile(file('key.pem'), 'utf8')).toBe('precious');
  });

  it.skipIf(!isRoot)('is refused that is another user’s, or below one that is', async () => {
    await mkdir(place);
    await chown(place, 4242, 4242);
    await expect(directoryAt().replace(pairOf('one'))).rejects.toMatchObject({ kind: 'denied', reason: 'secret-files.owner' });
    await mkdir(path.join(place, 'deep'));
    await expect(directoryAt(path.join(place, 'deep')).replace(pairOf('one'))).rejects.toMatchObject({ kind: 'denied', reason: 'secret-files.owner' });
  });

  it('that is swapped for another meanwhile is not the one written to', async () => {
    const moved = path.join(base, 'moved');
    const directory = directoryAt(place, {
      async onStep(step) {
        if (step !== 'write key.pem') return;
        await rename(place, moved);
        await mkdir(place);
      },
    });
    await directory.replace(pairOf('one'));
    expect(await readdir(place)).toEqual([]);
    expect(await readFile(path.join(moved, 'key.pem'), 'utf8')).toBe('key one');
    // And it is noticed.
    expect(await directory.state(pairOf('one'), 'web')).toBe('other');
  });

  it('is left as it was when a set cannot be written', async () => {
    const directory = directoryAt();
    await directory.replace(pairOf('one'));
    const unnameable = [...pairOf('two'), { name: 'x'.repeat(300), content: '', mode: 0o600 }];
    await expect(directory.replace(unnameable)).rejects.toMatchObject({ kind: 'unavailable', reason: 'files.io' });
    expect(await seen()).toBe('one');
    expect(await hidden()).toHaveLength(1);
    await expect(directoryAt('/proc/steeple').replace(pairOf('one'))).rejects.toMatchObject({ reason: 'files.missing' });
  });

  it('keeps its descriptors to itself', async () => {
    const before = (await readdir('/proc/self/fd')).length;
    const directory = directoryAt();
    for (let turn = 0; turn < 5; turn += 1) {
      await directory.replace(pairOf(String(turn)));
      await directory.settle('web');
      await rm(place, { recursive: true });
    }
    await directory.close();
    expect((await readdir('/proc/self/fd')).length).toBe(before);
    await (await open(base)).close();
    await expect(lstat(place)).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('a file’s name', () => {
  it.each(['svid.pem', 'A-b_c.1', '_x', '0'])('may be %s', (name) => expect(isFileName(name)).toBe(true));
  it.each(['', '.', '..', '.hidden', 'a/b', '../a', 'current', 'a b', 'a\n', 'ä', '-x', 'x'.repeat(201)])('may not be %j', (name) =>
    expect(isFileName(name)).toBe(false),
  );
});
