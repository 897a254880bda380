import { chmodSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openCredentialFiles } from '../../runtime/credential-watch.ts';
import type { CredentialFiles } from '../../runtime/credential-watch.ts';
import type { ServerCredentials } from '../../runtime/https-serve.ts';
import { createTestClock } from '../help/clock.ts';
import { createClusterAuthority } from '../help/kubernetes-tls.ts';

const web = createClusterAuthority('web');
const [one, two] = [web.issue('one'), web.issue('two')];
const lookMs = 5_000;
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'credentials-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

function write(credentials: Partial<ServerCredentials>, mode = 0o600): void {
  if (credentials.certificate !== undefined) writeFileSync(join(folder, 'cert.pem'), credentials.certificate);
  if (credentials.key === undefined) return;
  writeFileSync(join(folder, 'key.pem'), credentials.key);
  chmodSync(join(folder, 'key.pem'), mode);
}

interface Following {
  readonly files: CredentialFiles;
  readonly problems: unknown[];
  /** Lets the files be looked at so many times. */
  looks(count: number): Promise<void>;
  end(): Promise<void>;
}

async function follow(keyFile = join(folder, 'key.pem')): Promise<Following> {
  const clock = createTestClock();
  const problems: unknown[] = [];
  const onProblem = (problem: unknown): unknown => problems.push(problem === undefined ? 'over' : (problem as { reason: string }).reason);
  const files = await openCredentialFiles({ clock, certificateFile: join(folder, 'cert.pem'), keyFile, onProblem });
  const life = new AbortController();
  const running = files.run(life.signal);
  return {
    files,
    problems,
    async looks(count) {
      for (let look = 0; look < count; look += 1) {
        await clock.advance(lookMs);
        // Reading files takes turns of its own.
        for (let round = 0; clock.sleepers === 0 && round < 1_000; round += 1) await new Promise((resolve) => setTimeout(resolve, 1));
      }
    },
    async end() {
      life.abort();
      await running;
    },
  };
}

describe('certificate and key', () => {
  it('are read at the start and followed when both were replaced', async () => {
    write(one);
    const { files, problems, looks, end } = await follow();
    expect(files.credentials.value).toEqual(one);
    await looks(1);
    const same = files.credentials.value;
    await looks(1);
    expect(files.credentials.value).toBe(same);
    write(two);
    await looks(1);
    expect(files.credentials.value).toEqual(two);
    expect(problems).toEqual([]);
    await end();
  });

  it('stay the last good ones while the new ones do not fit, and nobody is told of what passes by itself', async () => {
    write(one);
    const { files, problems, looks, end } = await follow();
    write({ certificate: two.certificate });
    await looks(1);
    expect(files.credentials.value).toEqual(one);
    expect(problems).toEqual([]);
    write({ key: two.key });
    await looks(1);
    expect(files.credentials.value).toEqual(two);
    expect(problems).toEqual([]);
    await end();
  });

  it.each([
    ['do not fit', () => write({ certificate: two.certificate }), 'https.credentials'],
    ['are no PEM', () => write({ certificate: 'x' }), 'https.credentials'],
    ['hold a key for everybody to read', () => write(two, 0o644), 'files.mode'],
    ['are gone', () => rmSync(join(folder, 'key.pem')), 'files.missing'],
  ])('that %s are told of once, and again when it is over', async (_what, spoil, reason) => {
    write(one);
    const { files, problems, looks, end } = await follow();
    spoil();
    await looks(4);
    expect(problems).toEqual([reason]);
    expect(files.credentials.value).toEqual(one);
    write(two);
    await looks(1);
    expect(problems).toEqual([reason, 'over']);
    expect(files.credentials.value).toEqual(two);
    await end();
  });

  it('are followed through links, as those who renew them keep the newest behind one', async () => {
    write(one);
    renameSync(join(folder, 'key.pem'), join(folder, 'key1.pem'));
    symlinkSync('key1.pem', join(folder, 'live.pem'));
    const { files, looks, end } = await follow(join(folder, 'live.pem'));
    expect(files.credentials.value.key).toBe(one.key);
    write(two);
    renameSync(join(folder, 'key.pem'), join(folder, 'key2.pem'));
    symlinkSync('key2.pem', join(folder, 'next.pem'));
    renameSync(join(folder, 'next.pem'), join(folder, 'live.pem'));
    await looks(1);
    expect(files.credentials.value).toEqual(two);
    await end();
  });

  it('have to be good at the start', async () => {
    write({ certificate: one.certificate, key: two.key });
    await expect(follow()).rejects.toMatchObject({ kind: 'invalid', reason: 'https.credentials' });
    write(one, 0o640);
    await expect(follow()).rejects.toMatchObject({ kind: 'denied', reason: 'files.mode' });
  });
});
