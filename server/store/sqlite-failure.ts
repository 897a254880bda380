/**
 * What SQLite's result codes mean to a caller: the one place where they become errors of ours.
 */
import { SpiffeError, isSpiffeError } from '../../spiffe/errors.ts';

const perm = 3;
const busy = 5;
const locked = 6;
const noMemory = 7;
const readOnly = 8;
const ioError = 10;
const corrupt = 11;
const full = 13;
const cannotOpen = 14;
const constraint = 19;
const notADatabase = 26;

/** `code` is the primary one of a result code; 0 for an error that is not SQLite's. */
export function sqliteCode(error: unknown): number {
  return error instanceof Error && 'errcode' in error && typeof error.errcode === 'number' ? error.errcode & 0xff : 0;
}

/**
 * Unavailable `store.busy|full|io`, internal `store.corrupt|failed`, exists `store.unique`; errors of ours stay.
 * @param path of the file, for whoever has to repair it
 */
export function sqliteFailure(error: unknown, path: string): SpiffeError {
  if (isSpiffeError(error)) return error;
  const context = { cause: error, detail: { path, code: sqliteCode(error) } };
  switch (sqliteCode(error)) {
    case busy:
    case locked:
      return new SpiffeError('unavailable', 'store.busy', 'the store is busy; try again', context);
    case full:
      return new SpiffeError('unavailable', 'store.full', 'the disk of the store is full; nothing was recorded', context);
    case ioError:
    case cannotOpen:
    case readOnly:
    case perm:
    case noMemory:
      return new SpiffeError('unavailable', 'store.io', 'the store cannot be read or written now', context);
    case corrupt:
    case notADatabase:
      return new SpiffeError(
        'internal',
        'store.corrupt',
        `${path} is damaged; stop the server and run: steeple server restore --replace <backup>`,
        context,
      );
    case constraint:
      return new SpiffeError('exists', 'store.unique', 'what is to be recorded is recorded already', context);
    default:
      return new SpiffeError('internal', 'store.failed', 'the store failed', context);
  }
}
