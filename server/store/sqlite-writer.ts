/**
 * The thread that owns the one connection that writes: it takes all that is waiting into one transaction, each operation
 * under a savepoint of its own, and answers after the one commit. What the operations do is theirs.
 */
import type { DatabaseSync } from 'node:sqlite';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';

import type { MessagePort } from 'node:worker_threads';

import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { sendError, sendOutcomes } from './messages.ts';
import type { Answer, Request, ThreadMessage, WorkerMessage, WorkerSettings } from './messages.ts';
import { migrate, readFacts } from './migrate.ts';
import { readOperations, writeOperations } from './operations.ts';
import type { ReadOperation, WriteOperation } from './operations.ts';
import type { Transaction } from './session.ts';
import { holdStore, inMemory, openForWriting } from './sqlite-connection.ts';
import { sqliteCode, sqliteFailure } from './sqlite-failure.ts';
import { createSqliteSession } from './sqlite-session.ts';

/** A commit waits for the disk once; larger groups gain little and make the first in line wait. */
const maxGroup = 256;

const reads: Readonly<Record<string, ReadOperation>> = readOperations;
const writes: Readonly<Record<string, WriteOperation>> = writeOperations;

async function main(port: MessagePort, settings: WorkerSettings): Promise<void> {
  const send = (message: WorkerMessage): void => port.postMessage(message);
  const held: DatabaseSync[] = [];
  const release = (): void => {
    for (const database of held.splice(0).reverse()) database.close();
  };
  try {
    if (settings.path !== inMemory) held.push(holdStore(settings.path));
    const database = openForWriting(settings.path, settings.maxBytes);
    held.push(database);
    const writer = createWriter(database, settings);
    const { epoch, revision } = await writer.open();
    serve(port, (requests) => writer.runGroup(requests), send, release);
    send({ type: 'opened', epoch, revision });
  } catch (error) {
    release();
    send({ type: 'failed', error: sendError(error) });
    port.close();
  }
}

function serve(
  port: MessagePort,
  runGroup: (requests: readonly Request[]) => Promise<WorkerMessage>,
  send: (message: WorkerMessage) => void,
  release: () => void,
): void {
  const waiting: Request[] = [];
  let running = false;
  let closing = false;

  const take = (message: ThreadMessage): void => {
    if (message.type === 'close') closing = true;
    else waiting.push(message.request);
  };
  // What came meanwhile is taken without waiting for a turn of the event loop.
  const drain = (): void => {
    for (let next = receiveMessageOnPort(port); next !== undefined; next = receiveMessageOnPort(port)) {
      take(next.message as ThreadMessage);
    }
  };
  const work = async (): Promise<void> => {
    if (running) return;
    running = true;
    for (drain(); waiting.length > 0; drain()) send(await runGroup(waiting.splice(0, maxGroup)));
    running = false;
    if (!closing) return;
    release();
    port.close();
  };
  port.on('message', (message: ThreadMessage) => {
    take(message);
    void work();
  });
}

interface Writer {
  open(): Promise<{ readonly epoch: string; readonly revision: number }>;
  /** Never rejects: what fails is in the answers. */
  runGroup(requests: readonly Request[]): Promise<WorkerMessage>;
}

function createWriter(database: DatabaseSync, settings: WorkerSettings): Writer {
  const session = createSqliteSession(database, settings.path);
  const trustDomain = settings.trustDomain as TrustDomain;

  const exec = (statement: string): void => {
    try {
      database.exec(statement);
    } catch (error) {
      throw sqliteFailure(error, settings.path);
    }
  };

  const runOne = async (request: Request, transaction: Transaction): Promise<Answer> => {
    const { number, name, given } = request;
    const changesBefore = transaction.changes.length;
    exec('SAVEPOINT operation');
    try {
      const write = writes[name];
      const read = reads[name];
      if (write === undefined && read === undefined) throw new Error(`no operation ${name}`);
      const result = await (write?.(transaction, ...(given as never[])) ?? read?.(session, ...(given as never[])));
      exec('RELEASE operation');
      return isKeptRefusal(result) ? { number, error: sendError(result.refusal) } : { number, result: sendOutcomes(result) };
    } catch (error) {
      transaction.changes.length = changesBefore;
      // Some failures end the whole transaction by themselves.
      if (!database.isTransaction) throw sqliteFailure(error, settings.path);
      exec('ROLLBACK TO operation');
      exec('RELEASE operation');
      return { number, error: sendError(error) };
    }
  };

  const runAll = async (requests: readonly Request[]): Promise<WorkerMessage> => {
    const committedAt = Math.max(...requests.map((request) => request.at));
    const changes: Transaction['changes'] = [];
    const answers: Answer[] = [];
    exec('BEGIN IMMEDIATE');
    for (const request of requests) {
      answers.push(await runOne(request, { session, trustDomain, at: request.at, changes }));
    }
    commit();
    return { type: 'answers', answers, batch: changes.length === 0 ? undefined : { committedAt, changes } };
  };

  const commit = (): void => {
    try {
      database.exec('COMMIT');
    } catch (error) {
      // A log that could be written but not synced may still be found after a crash.
      if (sqliteCode(error) !== ioErrorCode) throw sqliteFailure(error, settings.path);
      const context = { cause: error, detail: { path: settings.path } };
      const message = 'the disk failed while the store committed; whether it did is known after a restart';
      throw new SpiffeError('unavailable', 'store.outcome-unknown', message, context);
    }
  };

  const rollBack = (): void => {
    if (!database.isTransaction) return;
    try {
      database.exec('ROLLBACK');
    } catch (error) {
      // Without a transaction there is nothing left to undo; with one, the next BEGIN fails by name.
      if (database.isTransaction) throw sqliteFailure(error, settings.path);
    }
  };

  return {
    async open() {
      exec('BEGIN IMMEDIATE');
      try {
        await migrate(session, 'integer', settings.trustDomain, settings.epoch);
        exec('COMMIT');
      } finally {
        rollBack();
      }
      return readFacts(session);
    },
    async runGroup(requests) {
      try {
        return await runAll(requests);
      } catch (error) {
        const sent = sendError(error);
        try {
          rollBack();
        } catch {
          // The error that started it says more.
        }
        return { type: 'answers', answers: requests.map(({ number }) => ({ number, error: sent })), batch: undefined };
      }
    },
  };
}

const ioErrorCode = 10;

function isKeptRefusal(result: unknown): result is { readonly refusal: SpiffeError } {
  return typeof result === 'object' && result !== null && 'refusal' in result && result.refusal instanceof SpiffeError;
}

if (parentPort !== null) void main(parentPort, workerData as WorkerSettings);
