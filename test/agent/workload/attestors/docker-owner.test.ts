import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createContainerOwners } from '../../../../agent/workload/attestors/docker-owner.ts';

let folder: string;
let subuidFile: string;
let passwdFile: string;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'subuid-'));
  [subuidFile, passwdFile] = [path.join(folder, 'subuid'), path.join(folder, 'passwd')];
  writeFileSync(passwdFile, 'root:x:0:0::/:\nann:x:1000:1000::/:\nbob:x:1001:1001::/:\n');
  writeFileSync(subuidFile, '# comment\nann:100000:65536\n1001:165536:65536\nann:400000:1\nbad:line\nann:500000\nann:x:1\n\n');
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('a user owns', () => {
  it.each([
    ['itself', 1000, 1000, true],
    ['the first of its subordinate ids', 1000, 100_000, true],
    ['the last of them', 1000, 165_535, true],
    ['none after it', 1000, 165_536, false],
    ['none before the first', 1000, 99_999, false],
    ['a second range', 1000, 400_000, true],
    ['no range that is cut short', 1000, 500_000, false],
    ['a range written by number', 1001, 165_536, true],
    ['nobody else', 1000, 1001, false],
    ['not root', 1000, 0, false],
    ['nothing without an entry', 1002, 100_000, false],
  ])('%s', async (_what, owner, uid, expected) => {
    expect(await createContainerOwners({ subuidFile, passwdFile }).owns(owner, uid)).toBe(expected);
  });

  it('itself alone where nothing is set aside', async () => {
    const owners = createContainerOwners({ subuidFile: path.join(folder, 'none'), passwdFile });
    expect([await owners.owns(1000, 1000), await owners.owns(1000, 100_000)]).toEqual([true, false]);
  });

  it('what a changed file says', async () => {
    const owners = createContainerOwners({ subuidFile, passwdFile });
    expect(await owners.owns(1000, 700_000)).toBe(false);
    writeFileSync(subuidFile, 'ann:700000:10\n');
    expect([await owners.owns(1000, 700_000), await owners.owns(1000, 100_000)]).toEqual([true, false]);
  });
});

describe('a file that cannot be read to its end', () => {
  it('is told apart from none', async () => {
    writeFileSync(subuidFile, 'x'.repeat(1024 * 1024 + 1));
    const owners = createContainerOwners({ subuidFile, passwdFile });
    await expect(owners.owns(1000, 100_000)).rejects.toMatchObject({ kind: 'limited', reason: 'docker.subuid.too-large' });
    await expect(createContainerOwners({ subuidFile: folder, passwdFile }).owns(1000, 100_000)).rejects.toMatchObject({
      kind: 'unavailable',
      reason: 'docker.subuid.unreadable',
    });
  });
});
