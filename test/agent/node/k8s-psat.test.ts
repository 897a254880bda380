import { chmod, mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { k8sPsatEvidence } from '../../../agent/node/k8s-psat.ts';

async function place(): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), 'steeple-psat-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  return path.join(directory, 'token');
}

it('shows the token with the name of the cluster, and no more than that', async () => {
  const tokenFile = await place();
  await writeFile(tokenFile, 'a.b.c', { mode: 0o644 });
  const source = k8sPsatEvidence({ cluster: 'Prod-1', tokenFile });
  expect([source.type, source.repeatable]).toEqual(['k8s_psat', true]);
  const evidence = await source.produce();
  expect(Buffer.from(evidence.payload).toString()).toBe('{"cluster":"Prod-1","token":"a.b.c"}');
  await expect(evidence.answer(new Uint8Array())).rejects.toMatchObject({ kind: 'denied', reason: 'evidence.challenge.unexpected' });
});

it('reads anew what a kubelet replaces, which is a link to a link', async () => {
  const tokenFile = await place();
  const directory = path.dirname(tokenFile);
  const project = async (version: string): Promise<void> => {
    await mkdir(path.join(directory, version));
    await writeFile(path.join(directory, version, 'token'), `${version}.b.c`);
    await symlink(version, path.join(directory, '..data_tmp'));
    await rename(path.join(directory, '..data_tmp'), path.join(directory, '..data'));
  };
  await symlink('..data/token', tokenFile);
  const source = k8sPsatEvidence({ cluster: 'c', tokenFile });
  await expect(source.produce()).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.k8s-psat.unreadable', detail: { because: 'files.missing' } });
  for (const version of ['first', 'second']) {
    await project(version);
    expect(JSON.parse(Buffer.from((await source.produce()).payload).toString())).toEqual({ cluster: 'c', token: `${version}.b.c` });
  }
});

it.each([
  ['nothing', ''],
  ['white space', ' \n'],
  ['two words', 'secret token'],
  ['two lines', 'secret\ntoken'],
  ['other characters', 'sécret'],
])('refuses a file with %s, and never repeats it', async (_what, text) => {
  const tokenFile = await place();
  await writeFile(tokenFile, text);
  const error: unknown = await k8sPsatEvidence({ cluster: 'c', tokenFile }).produce().catch((caught: unknown) => caught);
  expect(error).toMatchObject({ kind: 'invalid', reason: 'evidence.k8s-psat.token' });
  expect(String(error)).not.toContain('cret');
});

it.each([
  ['a directory', (file: string) => mkdir(file), 'files.not-file'],
  ['20 kB', (file: string) => writeFile(file, 'x'.repeat(20_000)), 'files.size'],
  ['a file that others may write', (file: string) => writeFile(file, 'a.b.c').then(() => chmod(file, 0o666)), 'files.mode'],
  ['a device without end', (file: string) => symlink('/dev/zero', file), 'files.not-file'],
] as const)('refuses %s', async (_what, make, because) => {
  const tokenFile = await place();
  await make(tokenFile);
  await expect(k8sPsatEvidence({ cluster: 'c', tokenFile }).produce()).rejects.toMatchObject({
    kind: 'unavailable',
    reason: 'evidence.k8s-psat.unreadable',
    detail: { because },
  });
});
