/**
 * The way to a TPM: a character device of the kernel, or the Unix socket of an emulator's data channel. Whole commands go
 * in and whole responses come out, one at a time; what they say is `command.ts`.
 */
import { open, readdir, stat, type FileHandle } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { abortReason, untilAborted } from '../../../runtime/abort.ts';
import type { Clock } from '../../../runtime/clock.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';

export interface TpmDevice {
  /**
   * Not to be called before the call before it settled. After a failure nothing more can be sent.
   * @throws unavailable `evidence.tpm.broken|deadline`
   */
  transmit(command: Uint8Array): Promise<Uint8Array>;
  /** Never rejects; what the kernel holds for a connection through its resource manager goes with it. */
  close(): Promise<void>;
}

/** Some TPMs look for the primes of a key for a minute. */
const deadlineMs = 120_000;
const maxResponseBytes = 4096;
const headerBytes = 10;
/** Through the resource manager first, which several programs may use at once. */
const deviceNames = [/^tpmrm\d+$/, /^tpm\d+$/];

/**
 * @throws unavailable `evidence.tpm.missing|busy|broken|deadline`, denied `evidence.tpm.access`,
 *   invalid `evidence.tpm.not-device`
 */
export async function openTpmDevice(path: string, clock: Pick<Clock, 'sleep'>): Promise<TpmDevice> {
  const stream = await translated(path, async () => {
    const stats = await stat(path);
    if (stats.isSocket()) return openSocket(path, clock);
    if (!stats.isCharacterDevice()) {
      throw new SpiffeError('invalid', 'evidence.tpm.not-device', `${path} is neither a character device nor a socket`);
    }
    return fileStream(await open(path, 'r+'));
  });
  let broken = false;
  return {
    async transmit(command) {
      if (broken) throw brokenOff();
      // What was not read to its end would be taken for the next response.
      broken = true;
      const response = await untilDeadline(clock, exchange(stream, command));
      broken = false;
      return response;
    },
    close: () => stream.close(),
  };
}

/**
 * The one TPM of this machine.
 * @throws unavailable `evidence.tpm.missing`, invalid `evidence.tpm.several`
 */
export async function findTpmDevice(directory = '/dev'): Promise<string> {
  const names = await translated(directory, () => readdir(directory));
  for (const form of deviceNames) {
    const found = names.filter((name) => form.test(name));
    if (found.length > 1) {
      throw new SpiffeError('invalid', 'evidence.tpm.several', 'there is more than one TPM; tpm_device_path says which one');
    }
    if (found[0] !== undefined) return join(directory, found[0]);
  }
  throw new SpiffeError('unavailable', 'evidence.tpm.missing', `there is no TPM in ${directory}`);
}

interface Stream {
  write(bytes: Uint8Array): Promise<void>;
  /** What is there, at least one byte; empty at the end. */
  read(): Promise<Uint8Array>;
  close(): Promise<void>;
}

async function exchange(stream: Stream, command: Uint8Array): Promise<Uint8Array> {
  try {
    await stream.write(command);
    let response = Buffer.alloc(0);
    for (;;) {
      const more = await stream.read();
      if (more.length === 0) throw brokenOff();
      response = Buffer.concat([response, more]);
      const length = response.length < headerBytes ? headerBytes : response.readUInt32BE(2);
      if (length < headerBytes || length > maxResponseBytes || response.length > length) throw brokenOff();
      if (response.length >= headerBytes && response.length === length) return response;
    }
  } catch (cause) {
    throw cause instanceof SpiffeError ? cause : brokenOff(cause);
  }
}

/** The kernel carries a command out while it is written, in a thread of the pool; its response is there once it is asked for. */
function fileStream(handle: FileHandle): Stream {
  return {
    async write(bytes) {
      const { bytesWritten } = await handle.write(bytes, 0, bytes.length, null);
      if (bytesWritten !== bytes.length) throw brokenOff();
    },
    async read() {
      const buffer = Buffer.alloc(maxResponseBytes);
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, null);
      return buffer.subarray(0, bytesRead);
    },
    close: () => handle.close().catch(() => undefined),
  };
}

async function openSocket(path: string, clock: Pick<Clock, 'sleep'>): Promise<Stream> {
  const socket = connect({ path });
  const opened = new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  try {
    await untilDeadline(clock, opened);
  } catch (error) {
    socket.destroy();
    throw error;
  }
  return socketStream(socket);
}

function socketStream(socket: Socket): Stream {
  const chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  // Told by the read or write that meets it.
  socket.on('error', () => undefined);
  return {
    write: (bytes) =>
      new Promise((resolve, reject) => {
        socket.write(bytes, (error) => {
          if (error === null || error === undefined) resolve();
          else reject(error);
        });
      }),
    async read() {
      const next = await chunks.next();
      return next.done === true ? new Uint8Array() : next.value;
    },
    async close() {
      socket.destroy();
      await closed;
    },
  };
}

async function untilDeadline<T>(clock: Pick<Clock, 'sleep'>, work: Promise<T>): Promise<T> {
  const late = new AbortController();
  const done = new AbortController();
  const slept = clock.sleep(deadlineMs, done.signal).then(
    () => late.abort(new SpiffeError('unavailable', 'evidence.tpm.deadline', 'the TPM did not answer in time')),
    () => undefined,
  );
  try {
    return await untilAborted(work, late.signal);
  } catch (error) {
    throw late.signal.aborted ? abortReason(late.signal) : error;
  } finally {
    done.abort();
    await slept;
  }
}

function brokenOff(cause?: unknown): SpiffeError {
  const message = 'the way to the TPM broke, or what came is no response of one';
  return new SpiffeError('unavailable', 'evidence.tpm.broken', message, { cause });
}

/** System codes become ours here, once. */
async function translated<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof SpiffeError) throw cause;
    const code = cause instanceof Error && 'code' in cause && typeof cause.code === 'string' ? cause.code : 'unknown';
    const context = { detail: { path, code }, cause };
    if (code === 'EACCES' || code === 'EPERM') {
      throw new SpiffeError('denied', 'evidence.tpm.access', `${path}: no permission (${code})`, context);
    }
    if (code === 'EBUSY') {
      throw new SpiffeError('unavailable', 'evidence.tpm.busy', `${path} is in use by another program`, context);
    }
    throw new SpiffeError('unavailable', 'evidence.tpm.missing', `${path} cannot be opened (${code})`, context);
  }
}
