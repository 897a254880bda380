/**
 * Giving way to others while much is read: a megabyte and more may be there at once, and who reads it all in one go holds
 * up everybody else for as long.
 */
import { nextTurn } from '../../../../runtime/clock.ts';

/** Some 2 ms of reading pods. */
const TURN_BYTES = 64 * 1024;

/** To be called after each part of the work with its size; to be waited for before the next one. */
export type Pace = (bytes: number) => Promise<void> | undefined;

export function createPace(): Pace {
  let sinceTurn = 0;
  return (bytes) => {
    sinceTurn += bytes;
    if (sinceTurn < TURN_BYTES) return undefined;
    sinceTurn = 0;
    return nextTurn();
  };
}
