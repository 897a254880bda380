/**
 * So many at once, so many in line, and no more: what keeps a crowd of nodes off a service that is asked about them. Whom
 * it is fair to is not looked at; who comes first is first.
 */
import { SpiffeError } from '../../spiffe/errors.ts';

export interface Turns {
  /** Does the work when its turn comes. @throws limited `turns.full`, and what the work throws */
  take<T>(work: () => Promise<T>): Promise<T>;
}

export function createTurns(limits: { readonly atOnce: number; readonly inLine: number }): Turns {
  const line: (() => void)[] = [];
  let running = 0;

  const enter = async (): Promise<void> => {
    if (running < limits.atOnce) {
      running += 1;
      return;
    }
    if (line.length >= limits.inLine) {
      throw new SpiffeError('limited', 'turns.full', 'too many wait for their turn, try again later');
    }
    await new Promise<void>((resolve) => line.push(resolve));
  };
  // A turn is handed on, so `running` stays as it is.
  const leave = (): void => {
    const next = line.shift();
    if (next === undefined) running -= 1;
    else next();
  };

  return {
    async take(work) {
      await enter();
      try {
        return await work();
      } finally {
        leave();
      }
    },
  };
}
