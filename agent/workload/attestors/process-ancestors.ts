/**
 * The processes a process descends from, as far up as the kernel shows them. What they run is `process-image.ts`; what
 * descent proves is little, and said in `docs/selectors.md`.
 */
import { isSpiffeError } from '../../../spiffe/errors.ts';
import { malformed, readProcessFile } from './process-file.ts';

/** Deeper families than any supervisor, shell and wrapper make together. */
const LIMIT_DEPTH = 32;
const TRIES = 3;

export interface Ancestry<T> {
  /** From the parent upwards: what `look` said of each. */
  readonly ancestors: readonly T[];
  /** Why the chain ends before its end: `process.ancestor.moved|younger|too-deep`. */
  readonly reason?: string;
}

export interface AncestryOptions {
  /** How many generations at most are asked for. */
  readonly depth?: number;
  /** Undefined when there is no such process. */
  readonly birthOf?: (pid: number) => Birth | undefined;
}

/**
 * @param look at one ancestor by its number; what it says counts only if that process was the parent before and after
 * @throws internal `process.form`; what `readProcessFile` throws of rights and lengths; whatever `look` throws
 */
export function ancestryOf<T>(pid: number, look: (pid: number) => T, options: AncestryOptions = {}): Ancestry<T> {
  const { depth = Number.POSITIVE_INFINITY, birthOf = readBirth } = options;
  const ancestors: T[] = [];
  let child = birthOf(pid);
  for (let tries = 0; child !== undefined && tries < TRIES; ) {
    if (child.parent === 0 || ancestors.length >= depth) return { ancestors };
    if (ancestors.length === LIMIT_DEPTH) return { ancestors, reason: 'process.ancestor.too-deep' };
    const parent = birthOf(child.parent);
    const said = parent === undefined ? undefined : { parent, value: look(parent.pid) };
    const again = birthOf(child.pid);
    if (again?.startedAt !== child.startedAt) break;
    // A child outlives its parent and is handed up; the number of the parent may then be anybody's.
    if (said === undefined || again.parent !== said.parent.pid || birthOf(said.parent.pid)?.startedAt !== said.parent.startedAt) {
      child = again;
      tries += 1;
      continue;
    }
    if (said.parent.startedAt > child.startedAt) return { ancestors, reason: 'process.ancestor.younger' };
    ancestors.push(said.value);
    child = said.parent;
    tries = 0;
  }
  return { ancestors, reason: 'process.ancestor.moved' };
}

export interface Birth {
  readonly pid: number;
  /** 0 for none, or one in another pid namespace than this program's. */
  readonly parent: number;
  /** Clock ticks after boot. */
  readonly startedAt: bigint;
}

function readBirth(pid: number): Birth | undefined {
  let text: string;
  try {
    text = readProcessFile(pid, 'stat').toString('latin1');
  } catch (error) {
    if (isSpiffeError(error, 'unavailable', 'process.gone')) return undefined;
    throw error;
  }
  return { pid, ...parseBirth(text) };
}

/** @throws internal `process.form` */
export function parseBirth(text: string): Omit<Birth, 'pid'> {
  // The name in parentheses is the program's own choice and may hold anything, so fields count from the last ")".
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ', 20);
  const [, parent = ''] = fields;
  const startedAt = fields[19] ?? '';
  if (!/^\d{1,10}$/.test(parent) || !/^\d{1,20}$/.test(startedAt)) throw malformed();
  return { parent: Number(parent), startedAt: BigInt(startedAt) };
}
