import { once } from 'node:events';
import { lstat, mkdir, mkdtemp, readlink, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { freePort, type Place, recall, remember, takePlace } from '../../../cli/demo/place.ts';
import { maxSocketPathBytes } from '../../../runtime/config.ts';

let directory: string;
const held: Place[] = [];
beforeEach(async () => {
  directory = await realpath(await mkdtemp(join(tmpdir(), 'steeple-place-')));
});
afterEach(async () => {
  for (const place of held.splice(0)) await place.release();
  await rm(directory, { recursive: true, force: true });
});

async function take(...parts: readonly string[]): Promise<Place> {
  const place = await takePlace(join(directory, ...parts));
  held.push(place);
  return place;
}

describe('a place', () => {
  it("is made for its owner alone, with the sockets where the README says they are", async () => {
    const place = await take('.steeple');
    expect((await stat(place.directory)).mode & 0o777).toBe(0o700);
    expect(place.sockets).toEqual({
      server: join(place.directory, 'server/api.sock'),
      agent: join(place.directory, 'agent/public/api.sock'),
      admin: join(place.directory, 'agent/private/admin.sock'),
    });
  });

  it('is held by one demo at a time', async () => {
    const place = await take('.steeple');
    await expect(take('.steeple')).rejects.toMatchObject({ kind: 'conflict', reason: 'cli.demo.running' });
    await held.pop()?.release();
    expect((await take('.steeple')).directory).toBe(place.directory);
  });

  it('has short sockets with links to them where its path is too long', async () => {
    const deep = 'x'.repeat(maxSocketPathBytes);
    await mkdir(join(directory, deep));
    const place = await take(deep, '.steeple');
    for (const path of Object.values(place.sockets)) expect(Buffer.byteLength(path)).toBeLessThanOrEqual(maxSocketPathBytes);
    expect(await readlink(join(place.directory, 'server/api.sock'))).toBe(place.sockets.server);
    expect(await readlink(join(place.directory, 'agent/private/admin.sock'))).toBe(place.sockets.admin);
    const short = place.sockets.server.slice(0, -'/server/api.sock'.length);
    expect((await lstat(short)).mode & 0o777).toBe(0o700);
    await rm(short, { recursive: true });
  });
});

describe('memory', () => {
  it('lasts from one run to the next, and is nothing when it is spoilt', async () => {
    const place = await take('.steeple');
    expect(await recall(place)).toEqual({ started: [] });
    const what = { serverPort: 1, betaPort: 2, started: [{ pid: 3, startTime: '4' }] };
    await remember(place, what);
    expect(await recall(place)).toEqual(what);
    await writeFile(join(place.directory, 'demo', 'memory.json'), '{"started": 1');
    expect(await recall(place)).toEqual({ started: [] });
  });
});

describe('ports', () => {
  it('are those of last time, unless somebody else has them', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    expect(await freePort(port)).not.toBe(port);
    await new Promise((resolve) => server.close(resolve));
    expect(await freePort(port)).toBe(port);
  });
});
