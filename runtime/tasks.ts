/**
 * Long-running tasks that belong together: they start together and stop together, and the one that failed is named. What
 * a task does with its signal is its own affair.
 */
import { SpiffeError } from '../spiffe/errors.ts';
import { linkedController } from './abort.ts';

export type Task = (signal: AbortSignal) => Promise<void>;

/**
 * Starts all tasks in the order given and resolves when all have ended. The first to fail makes the others' signal abort;
 * once every task has ended, its failure is thrown. Ending after `signal` aborted is no failure, nor is rejecting with
 * its reason.
 * @throws the failure's kind (internal if it has none) `task.failed`, detail `{task, reason}`, the failure as cause
 */
export async function runTasks(tasks: Readonly<Record<string, Task>>, signal: AbortSignal): Promise<void> {
  const stop = linkedController(signal);
  let failure: { readonly name: string; readonly error: unknown } | undefined;

  const run = async (name: string, task: Task): Promise<void> => {
    try {
      await task(stop.signal);
    } catch (error) {
      if (failure !== undefined) return;
      if (stop.signal.aborted && isAbort(error, stop.signal)) return;
      failure = { name, error };
      stop.abort(new Error(`stopped because task ${name} failed`));
    }
  };

  await Promise.all(Object.entries(tasks).map(([name, task]) => run(name, task)));
  stop.unlink();
  if (failure !== undefined) throw taskFailed(failure.name, failure.error);
}

function isAbort(error: unknown, signal: AbortSignal): boolean {
  return error === signal.reason || (error instanceof Error && error.name === 'AbortError');
}

function taskFailed(name: string, error: unknown): SpiffeError {
  if (error instanceof SpiffeError) {
    return new SpiffeError(error.kind, 'task.failed', `${name}: ${error.message}`, {
      detail: { task: name, reason: error.reason },
      cause: error,
    });
  }
  return new SpiffeError('internal', 'task.failed', `${name} failed`, { detail: { task: name }, cause: error });
}
