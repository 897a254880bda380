import { createPublicKey, verify } from 'node:crypto';
import { chmod, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { describe, expect, it, onTestFinished } from 'vitest';
import { openDiskKeyStore } from '../../../server/authority/keys-disk.ts';
import { generateSealingKey, type SealingSecret } from '../../../runtime/seal.ts';

const data = Buffer.from('what is signed');
const sealing: SealingSecret = { type: 'key', key: generateSealingKey() };

async function newDirectory(): Promise<string> {
  const parent = await mkdtemp(join(tmpdir(), 'steeple-keys-'));
  onTestFinished(() => rm(parent, { recursive: true, force: true }));
  return join(parent, 'keys');
}

async function signsAs(directory: string, secret: SealingSecret | undefined, publicKey: Uint8Array): Promise<boolean> {
  const keys = await openDiskKeyStore({ directory, secret });
  const signature = await keys.sign('x509-1', data, 'der');
  await keys.close();
  return verify('sha256', data, createPublicKey({ key: Buffer.from(publicKey), format: 'der', type: 'spki' }), signature);
}

describe('openDiskKeyStore', () => {
  it.each([
    ['plain', undefined],
    ['sealed', sealing],
    ['sealed with a passphrase', { type: 'passphrase', passphrase: 'correct horse' }],
  ] as const)('finds its keys again: %s', async (_name, secret) => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret });
    const { publicKey } = await keys.generate('x509-1', 'ec-p256');
    await keys.close();
    expect(await signsAs(directory, secret, publicKey)).toBe(true);
  });

  it('T-C09: writes one owner-only file for each key, in a directory of the owner alone', async () => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret: sealing });
    await keys.generate('x509-1', 'ec-p256');
    await keys.generate('jwt-1', 'rsa-2048');
    expect((await stat(directory)).mode & 0o777).toBe(0o700);
    const files = await readdir(directory);
    expect(files.toSorted()).toEqual(['jwt-1.sealed', 'x509-1.sealed']);
    for (const file of files) expect((await stat(join(directory, file))).mode & 0o777).toBe(0o600);
  });

  it('T-C09: keeps nothing readable in a sealed file, and prints nothing of a key', async () => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret: sealing });
    const { publicKey } = await keys.generate('x509-1', 'ec-p256');
    const content = await readFile(join(directory, 'x509-1.sealed'));
    // The public half is part of PKCS#8.
    expect(content.includes(Buffer.from(publicKey).subarray(-64))).toBe(false);
    expect(content.includes('PRIVATE')).toBe(false);
    expect(inspect(keys, { depth: 10 })).not.toMatch(/PRIVATE|Buffer/);
  });

  it('T-C09: refuses loose modes by name', async () => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret: undefined });
    await keys.generate('x509-1', 'ec-p256');
    await chmod(join(directory, 'x509-1.key'), 0o640);
    await expect(openDiskKeyStore({ directory, secret: undefined })).rejects.toMatchObject({
      kind: 'denied',
      reason: 'keys.mode',
      detail: { path: join(directory, 'x509-1.key') },
    });
    await chmod(join(directory, 'x509-1.key'), 0o600);
    await chmod(directory, 0o755);
    await expect(openDiskKeyStore({ directory, secret: undefined })).rejects.toMatchObject({ kind: 'denied', reason: 'keys.mode' });
  });

  it('T-C09: refuses the wrong sealing key, the wrong kind of secret and none at all', async () => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret: sealing });
    await keys.generate('x509-1', 'ec-p256');
    const wrong: readonly (SealingSecret | undefined)[] = [
      { type: 'key', key: generateSealingKey() },
      { type: 'passphrase', passphrase: 'correct horse' },
      undefined,
    ];
    for (const secret of wrong) {
      await expect(openDiskKeyStore({ directory, secret })).rejects.toMatchObject({ kind: 'denied', reason: 'keys.secret' });
    }
  });

  it('T-F05: refuses a changed file, and one put in the place of another', async () => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret: sealing });
    await keys.generate('x509-1', 'ec-p256');
    const path = join(directory, 'x509-1.sealed');
    const right = await readFile(path);
    await rename(path, join(directory, 'jwt-1.sealed'));
    await expect(openDiskKeyStore({ directory, secret: sealing })).rejects.toMatchObject({ reason: 'keys.secret' });
    await rm(join(directory, 'jwt-1.sealed'));
    await writeFile(path, right.subarray(0, 20), { mode: 0o600 });
    await expect(openDiskKeyStore({ directory, secret: sealing })).rejects.toMatchObject({ kind: 'invalid', reason: 'keys.broken' });
    await rm(path);
    await writeFile(join(directory, 'x509-2.key'), 'not a key', { mode: 0o600 });
    await expect(openDiskKeyStore({ directory, secret: undefined })).rejects.toMatchObject({ kind: 'invalid', reason: 'keys.broken' });
  });

  it('seals what was written plain as soon as it can, also after a crash in between', async () => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret: undefined });
    const { publicKey } = await keys.generate('x509-1', 'ec-p256');
    const plain = await readFile(join(directory, 'x509-1.key'));
    expect(await signsAs(directory, sealing, publicKey)).toBe(true);
    expect(await readdir(directory)).toEqual(['x509-1.sealed']);
    await writeFile(join(directory, 'x509-1.key'), plain, { mode: 0o600 });
    expect(await signsAs(directory, sealing, publicKey)).toBe(true);
    expect(await readdir(directory)).toEqual(['x509-1.sealed']);
  });

  it('drops what an interrupted write left', async () => {
    const directory = await newDirectory();
    await openDiskKeyStore({ directory, secret: undefined });
    await writeFile(join(directory, '.x509-1.key.0011.tmp'), 'half', { mode: 0o600 });
    const keys = await openDiskKeyStore({ directory, secret: undefined });
    expect(await keys.list()).toEqual([]);
    expect(await readdir(directory)).toEqual([]);
  });

  it('keeps a name for one key and forgets durably', async () => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret: undefined });
    await keys.generate('x509-1', 'ec-p256');
    await expect(keys.generate('x509-1', 'ec-p256')).rejects.toMatchObject({ kind: 'exists', reason: 'keys.exists' });
    await keys.forget('x509-1');
    await keys.forget('x509-1');
    await expect(keys.sign('x509-1', data, 'der')).rejects.toMatchObject({ kind: 'missing', reason: 'keys.missing' });
    expect(await (await openDiskKeyStore({ directory, secret: undefined })).list()).toEqual([]);
  });

  it('writes nothing outside its directory', async () => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret: undefined });
    for (const name of ['../escape', 'a/b', '.hidden', '']) {
      await expect(keys.generate(name, 'ec-p256')).rejects.toMatchObject({ reason: 'keys.name' });
      await keys.forget(name);
    }
    expect(await readdir(join(directory, '..'))).toEqual(['keys']);
  });

  it('says that keys cannot be reached when the directory is gone', async () => {
    const directory = await newDirectory();
    const keys = await openDiskKeyStore({ directory, secret: undefined });
    await rm(directory, { recursive: true });
    await expect(keys.generate('x509-1', 'ec-p256')).rejects.toMatchObject({ kind: 'unavailable', reason: 'keys.unavailable' });
    expect(await keys.list()).toEqual([]);
  });
});
