import { readdirSync, readlinkSync } from 'node:fs';
import { link, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findTpmDevice, openTpmDevice } from '../../../../agent/node/tpm/device.ts';
import { systemClock } from '../../../../runtime/clock.ts';
import { createTestClock } from '../../../help/clock.ts';

const command = Buffer.from('80010000000c000001440000', 'hex');
const response = Buffer.from('80010000000c00000000abcd', 'hex');
let directory: string;
let path: string;
let server: Server | undefined;
const sockets = new Set<Socket>();

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'tpm-device-'));
  path = join(directory, 'tpm.sock');
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  await new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())));
  server = undefined;
  await rm(directory, { recursive: true });
});

/** What stands at the other end: told of each chunk, it says what it likes. */
async function standIn(talk: (socket: Socket, chunk: Buffer) => void): Promise<void> {
  server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => talk(socket, chunk));
  });
  await new Promise<void>((resolve) => server?.listen(path, resolve));
}

/** Descriptors of this process, whichever thread's, that stand for a file. */
function openAt(file: string): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === file;
    } catch {
      return false;
    }
  }).length;
}

describe('openTpmDevice', () => {
  it('carries commands to a socket and whole responses back, however they are cut', async () => {
    await standIn((socket) => {
      for (const [index] of response.entries()) socket.write(response.subarray(index, index + 1));
    });
    const device = await openTpmDevice(path, systemClock);
    expect(await device.transmit(command)).toEqual(response);
    expect(await device.transmit(command)).toEqual(response);
    await device.close();
  });

  it.each([
    ['hangs up', (socket: Socket) => socket.destroy()],
    ['ends in the middle', (socket: Socket) => socket.end(response.subarray(0, 11))],
    ['says more than it announced', (socket: Socket) => socket.write(Buffer.concat([response, response]))],
    ['announces less than a header', (socket: Socket) => socket.write(Buffer.from('80010000000900000000', 'hex'))],
    ['announces more than any response', (socket: Socket) => socket.write(Buffer.from('80017fffffff00000000', 'hex'))],
    ['pours', (socket: Socket) => socket.write(Buffer.alloc(1_000_000, 0x80))],
  ])('gives up on a device that %s, for good', async (_name, talk) => {
    await standIn(talk);
    const device = await openTpmDevice(path, systemClock);
    await expect(device.transmit(command)).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.broken' });
    await expect(device.transmit(command)).rejects.toMatchObject({ reason: 'evidence.tpm.broken' });
    await device.close();
    // The other end sees it go.
    await expect.poll(() => [...sockets].every((socket) => socket.destroyed || socket.readableEnded)).toBe(true);
  });

  it('waits two minutes for a response, and no longer', async () => {
    const clock = createTestClock();
    const asked = Promise.withResolvers<void>();
    await standIn(() => asked.resolve());
    const device = await openTpmDevice(path, clock);
    const sent = device.transmit(command);
    const outcome = sent.then(() => 'answered', (error: unknown) => error);
    await asked.promise;
    await clock.advance(119_999);
    expect(await Promise.race([outcome, Promise.resolve('waiting')])).toBe('waiting');
    await clock.advance(1);
    expect(await outcome).toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.deadline' });
    expect(clock.sleepers).toBe(0);
    await expect(device.transmit(command)).rejects.toMatchObject({ reason: 'evidence.tpm.broken' });
    await device.close();
  });

  it('gives up on a character device that answers nothing, or nonsense', async () => {
    for (const special of ['/dev/null', '/dev/zero']) {
      const device = await openTpmDevice(special, systemClock);
      await expect(device.transmit(command)).rejects.toMatchObject({ reason: 'evidence.tpm.broken' });
      await device.close();
    }
    expect(openAt('/dev/zero')).toBe(0);
    const full = await openTpmDevice('/dev/full', systemClock);
    await expect(full.transmit(command)).rejects.toMatchObject({ reason: 'evidence.tpm.broken', cause: { code: 'ENOSPC' } });
    await full.close();
  });

  it('opens nothing but character devices and sockets', async () => {
    await writeFile(path, '');
    await expect(openTpmDevice(path, systemClock)).rejects.toMatchObject({ kind: 'invalid', reason: 'evidence.tpm.not-device' });
    await expect(openTpmDevice(directory, systemClock)).rejects.toMatchObject({ kind: 'invalid', reason: 'evidence.tpm.not-device' });
    await expect(openTpmDevice(join(directory, 'none'), systemClock)).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.missing', detail: { code: 'ENOENT' } });
  });

  it('says when nobody listens at the socket', async () => {
    await standIn(() => undefined);
    const left = join(directory, 'left.sock');
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(left, resolve));
    await link(left, join(directory, 'kept.sock'));
    await new Promise<void>((resolve) => other.close(() => resolve()));
    await expect(openTpmDevice(join(directory, 'kept.sock'), systemClock)).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.missing', detail: { code: 'ECONNREFUSED' } });
  });
});

describe('findTpmDevice', () => {
  it.each([
    [['tpm0', 'tpmrm0', 'null'], 'tpmrm0'],
    [['tpm0', 'tty', 'tpmx'], 'tpm0'],
    [['tpmrm1', 'tpm0', 'tpm1'], 'tpmrm1'],
  ])('of %j takes %s', async (names, expected) => {
    for (const name of names) await writeFile(join(directory, name), '');
    expect(await findTpmDevice(directory)).toBe(join(directory, expected));
  });

  it.each([
    [[], { kind: 'unavailable', reason: 'evidence.tpm.missing' }],
    [['tty'], { kind: 'unavailable', reason: 'evidence.tpm.missing' }],
    [['tpmrm0', 'tpmrm1'], { kind: 'invalid', reason: 'evidence.tpm.several' }],
    [['tpm0', 'tpm1'], { kind: 'invalid', reason: 'evidence.tpm.several' }],
  ])('of %j takes none', async (names, expected) => {
    for (const name of names) await writeFile(join(directory, name), '');
    await expect(findTpmDevice(directory)).rejects.toMatchObject(expected);
  });

  it('says when the folder is not there', async () => {
    await expect(findTpmDevice(join(directory, 'none'))).rejects.toMatchObject({ reason: 'evidence.tpm.missing' });
  });
});
