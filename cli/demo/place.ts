/**
 * Where the demo keeps its things, and what it remembers from one run to the next. One demo at a time holds the place;
 * what runs in it is `story.ts`.
 */
import { createHash } from 'node:crypto';
import { lstat, mkdir, open, readFile, readlink, realpath, rm, symlink } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { maxSocketPathBytes } from '../../runtime/config.ts';
import { ensurePrivateDirectory, writePrivateFile } from '../../runtime/files.ts';
import { effectiveUid, tryLockFile } from '../../runtime/linux.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

export interface Place {
  /** Absolute and without links, as the kernel names what runs in it. */
  readonly directory: string;
  /** Where the sockets are; elsewhere, with links in the directory, when its path is too long for the kernel. */
  readonly sockets: { readonly server: string; readonly agent: string; readonly admin: string };
  /** Lets the next demo have it. */
  release(): Promise<void>;
}

const memory = z.object({
  serverPort: z.number().int().optional(),
  betaPort: z.number().int().optional(),
  /** What the last run started, to be stopped if it could not do so itself. */
  started: z.array(z.object({ pid: z.number().int(), startTime: z.string() })).default([]),
});

export type Memory = z.output<typeof memory>;

const socketNames = { server: 'server/api.sock', agent: 'agent/public/api.sock', admin: 'agent/private/admin.sock' } as const;

/**
 * Takes the place, made when it is missing.
 * @throws conflict `cli.demo.running`, and as `ensurePrivateDirectory`
 */
export async function takePlace(named: string): Promise<Place> {
  await mkdir(named, { recursive: true, mode: 0o700 });
  const directory = await realpath(named);
  const lock = await open(join(directory, 'lock'), 'a', 0o600);
  if (!tryLockFile(lock.fd)) {
    await lock.close();
    throw new SpiffeError('conflict', 'cli.demo.running', `a demo runs in ${directory} already; end it with Ctrl-C, or name another place with --dir`);
  }
  try {
    for (const name of ['server', 'agent', 'demo']) await mkdir(join(directory, name), { recursive: true, mode: 0o700 });
    return { directory, sockets: await placeSockets(directory), release: () => lock.close() };
  } catch (error) {
    await lock.close();
    throw error;
  }
}

async function placeSockets(directory: string): Promise<Place['sockets']> {
  const within = (base: string): Place['sockets'] => ({
    server: join(base, socketNames.server),
    agent: join(base, socketNames.agent),
    admin: join(base, socketNames.admin),
  });
  const near = within(directory);
  const longest = Math.max(...Object.values(near).map((path) => Buffer.byteLength(path)));
  if (longest <= maxSocketPathBytes) {
    for (const path of Object.values(near)) await removeLink(path);
    return near;
  }
  const hash = createHash('sha256').update(directory).digest('hex').slice(0, 12);
  const short = join(tmpdir(), `steeple-demo-${effectiveUid()}-${hash}`);
  await ensurePrivateDirectory(short);
  const far = within(short);
  for (const name of ['server', 'agent', 'admin'] as const) await linkTo(near[name], far[name]);
  return far;
}

async function linkTo(path: string, target: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  await mkdir(dirname(target), { recursive: true, mode: 0o755 });
  if ((await readlink(path).catch(() => undefined)) === target) return;
  await rm(path, { force: true });
  await symlink(target, path);
}

/** Of a place that was too deep before and has been moved. */
async function removeLink(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found?.isSymbolicLink() === true) await rm(path);
}

/** What was remembered; nothing when that cannot be read any more. */
export async function recall(place: Place): Promise<Memory> {
  try {
    return memory.parse(JSON.parse(await readFile(memoryFile(place), 'utf8')));
  } catch {
    return { started: [] };
  }
}

export async function remember(place: Place, what: Memory): Promise<void> {
  await writePrivateFile(memoryFile(place), `${JSON.stringify(what)}\n`);
}

function memoryFile(place: Place): string {
  return join(place.directory, 'demo', 'memory.json');
}

/** The port of last time if it is free, else one that is. */
export async function freePort(last: number | undefined): Promise<number> {
  return (last === undefined ? undefined : await tryPort(last)) ?? (await tryPort(0)) ?? noPort();
}

function noPort(): never {
  throw new SpiffeError('unavailable', 'cli.demo.no-port', 'no port is free on 127.0.0.1');
}

function tryPort(wanted: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen({ port: wanted, host: '127.0.0.1' }, () => {
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : undefined;
      server.close(() => resolve(port));
    });
  });
}
