/**
 * A worker thread of the store as its caller sees it: numbered calls and their answers, and what was committed between
 * them. Knows nothing of SQL.
 */
import { Worker } from 'node:worker_threads';

import { SpiffeError } from '../../spiffe/errors.ts';
import { receiveError } from './messages.ts';
import type { Answer, ThreadMessage, WorkerMessage, WorkerSettings } from './messages.ts';
import type { CommittedBatch } from './store.ts';

export interface StoreThread {
  readonly epoch: string;
  /** When it was opened. */
  readonly revision: number;
  /** @throws unavailable `store.closed|outcome-unknown` and what the operation throws */
  call(name: string, given: readonly unknown[], at: number): Promise<unknown>;
  /** Runs before the promises of the calls resolve whose changes it shows. One listener. */
  onBatch(listener: (batch: CommittedBatch) => void): void;
  /** Waits for what was called. */
  close(): Promise<void>;
}

interface Waiting {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: SpiffeError) => void;
}

/** @throws what the worker could not open */
export async function startWorker(file: 'sqlite-writer' | 'sqlite-reader', settings: WorkerSettings): Promise<StoreThread> {
  // The same file beside this one, as source or compiled.
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const worker = new Worker(new URL(`./${file}.${extension}`, import.meta.url), {
    workerData: settings,
    name: file,
    env: {},
    stdin: false,
  });
  const opened = Promise.withResolvers<{ readonly epoch: string; readonly revision: number }>();
  const ended = Promise.withResolvers<void>();
  const waiting = new Map<number, Waiting>();
  let listener: ((batch: CommittedBatch) => void) | undefined;
  let lastNumber = 0;
  let closed: SpiffeError | undefined;

  const end = (error: SpiffeError, lost: SpiffeError): void => {
    closed ??= error;
    opened.reject(closed);
    for (const { reject } of waiting.values()) reject(lost);
    waiting.clear();
    ended.resolve();
  };
  const settle = (answer: Answer): void => {
    const caller = waiting.get(answer.number);
    waiting.delete(answer.number);
    if ('error' in answer) caller?.reject(receiveError(answer.error));
    else caller?.resolve(answer.result);
  };

  worker.on('message', (message: WorkerMessage) => {
    switch (message.type) {
      case 'opened':
        opened.resolve(message);
        return;
      case 'failed':
        closed = receiveError(message.error);
        opened.reject(closed);
        return;
      case 'answers':
        if (message.batch !== undefined) listener?.(message.batch);
        for (const answer of message.answers) settle(answer);
    }
  });
  worker.on('error', (cause) => {
    const lost = new SpiffeError('unavailable', 'store.outcome-unknown', 'the store failed; what was asked may have taken effect', { cause });
    end(new SpiffeError('unavailable', 'store.closed', 'the store failed and is closed', { cause }), lost);
  });
  worker.on('exit', () => {
    const error = closedError();
    end(error, error);
  });

  const { epoch, revision } = await opened.promise;
  return {
    epoch,
    revision,
    call(name, given, at) {
      if (closed !== undefined) return Promise.reject(closed);
      const number = ++lastNumber;
      const { promise, resolve, reject } = Promise.withResolvers<unknown>();
      waiting.set(number, { resolve, reject });
      worker.postMessage({ type: 'request', request: { number, name, given, at } } satisfies ThreadMessage);
      return promise;
    },
    onBatch(added) {
      listener = added;
    },
    async close() {
      if (closed === undefined) {
        closed = closedError();
        worker.postMessage({ type: 'close' } satisfies ThreadMessage);
      }
      await ended.promise;
    },
  };
}

function closedError(): SpiffeError {
  return new SpiffeError('unavailable', 'store.closed', 'the store is closed');
}
