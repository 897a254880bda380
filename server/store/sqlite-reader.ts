/**
 * The thread that reads: loads and listings run here, so that neither the writer nor the main thread waits for them.
 */
import { parentPort, workerData } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';

import { sendError } from './messages.ts';
import type { ThreadMessage, WorkerMessage, WorkerSettings } from './messages.ts';
import { readFacts } from './migrate.ts';
import { readOperations } from './operations.ts';
import type { ReadOperation } from './operations.ts';
import { openForReading } from './sqlite-connection.ts';
import { createSqliteSession } from './sqlite-session.ts';

const reads: Readonly<Record<string, ReadOperation>> = readOperations;

async function main(port: MessagePort, settings: WorkerSettings): Promise<void> {
  const send = (message: WorkerMessage): void => port.postMessage(message);
  try {
    const database = openForReading(settings.path);
    const session = createSqliteSession(database, settings.path);
    const answer = async ({ request }: Extract<ThreadMessage, { type: 'request' }>): Promise<void> => {
      const { number, name, given } = request;
      try {
        const read = reads[name];
        if (read === undefined) throw new Error(`no operation ${name}`);
        send({ type: 'answers', answers: [{ number, result: await read(session, ...(given as never[])) }], batch: undefined });
      } catch (error) {
        send({ type: 'answers', answers: [{ number, error: sendError(error) }], batch: undefined });
      }
    };
    port.on('message', (message: ThreadMessage) => {
      if (message.type === 'request') {
        void answer(message);
        return;
      }
      database.close();
      port.close();
    });
    const { epoch, revision } = await readFacts(session);
    send({ type: 'opened', epoch, revision });
  } catch (error) {
    send({ type: 'failed', error: sendError(error) });
    port.close();
  }
}

if (parentPort !== null) void main(parentPort, workerData as WorkerSettings);
