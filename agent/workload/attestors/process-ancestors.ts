/**
 * The processes a process descends from, as far up as the kernel shows them. What they run is `process-image.ts`; what
 * descent proves is little, and said in `docs/selectors.md`.
 */
import { isSpiffeError } from '../../../spiffe/errors.ts';
import { malformed, readProcessFile } from './process-file.ts';

/** Deeper families than any supervisor, shell and wrapper make together. */
const LIMIT_DEPTH = 64;
const TRIES = 3;

export interface Ancestry<T> {
  /** From the parent upwards: what `look` said of each. */
  readonly ancestors: readonly T[];
  /** Why the chain ends before its end: `process.ancestor.moved|younger|too-deep`. */
  readonly reason?: string;
}

/**
 * @param look at one ancestor by its number; what it says counts only if that process was the parent before and after
 * @param depth how many generations at most are asked for
 * @throws as `readProcessFile`, of the process itself; whatever `look` throws
 */
export function ancestryOf<T>(pid: number, look: (pid: number) => T, depth: number = LIMIT_DEPTH): Ancestry<T> {
  const ancestors: T[] = [];
  let child: Birth | undefined = birthOf(pid);
  for (let tries = 0; child !== undefined && child.parent !== 0; ) {
    if (ancestors.length === LIMIT_DEPTH) return { ancestors, reason: 'process.ancestor.too-deep' };
    if (ancestors.length === depth) return { ancestors };
    const parent = birthIfAny(child.parent);
    if (parent !== undefined && parent.startedAt > child.startedAt) return { ancestors, reason: 'process.ancestor.younger' };
    const said = parent === undefined ? undefined : { value: look(parent.pid) };
    const again = birthIfAny(child.pid);
    if (again?.startedAt !== child.startedAt) return { ancestors, reason: 'process.ancestor.moved' };
    // A child outlives its parent and is handed up; the number of the parent may then be anybody's.
    if (said === undefined || again.parent !== parent?.pid || birthIfAny(parent.pid)?.startedAt !== parent.startedAt) {
      tries += 1;
      if (tries === TRIES) return { ancestors, reason: 'process.ancestor.moved' };
      child = again;
      continue;
    }
    ancestors.push(said.value);
    child = parent;
    tries = 0;
  }
  return { ancestors };
}

interface Birth {
  readonly pid: number;
  /** 0 for none, or one in another pid namespace than this program's. */
  readonly parent: number;
  /** Clock ticks after boot. */
  readonly startedAt: bigint;
}

function birthOf(pid: number): Birth {
  const text = readProcessFile(pid, 'stat').toString('latin1');
  // The name in parentheses is the program's own choice and may hold anything, so fields count from the last ")".
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ', 20);
  const [, parent = ''] = fields;
  const startedAt = fields[19] ?? '';
  if (!/^\d{1,10}$/.test(parent) || !/^\d{1,20}$/.test(startedAt)) throw malformed();
  return { pid, parent: Number(parent), startedAt: BigInt(startedAt) };
}

function birthIfAny(pid: number): Birth | undefined {
  try {
    return birthOf(pid);
  } catch (error) {
    if (isSpiffeError(error, 'unavailable')) return undefined;
    throw error;
  }
}
