/**
 * Events on disk, numbered, until somebody else has recorded them: lines in segment files of bounded size, oldest first.
 * When the bound is reached newer events are counted instead of kept, and the count becomes an event itself.
 */
import { randomBytes } from 'node:crypto';
import { appendFile, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { isSpiffeError } from '../../spiffe/errors.ts';
import { ensurePrivateDirectory, readPrivateFile, removeFile, writePrivateFile } from '../../runtime/files.ts';
import { composeEvent, type NumberedEvent, type WorkloadEvent } from './event.ts';

export interface SpoolOptions {
  /** Made owner-only; nothing else lives there. */
  readonly directory: string;
  readonly maxBytes: number;
  readonly segmentBytes?: number;
  readonly now: () => number;
}

export interface Spool {
  /** Random, new for every new spool; sequence numbers count within it. */
  readonly id: string;
  /** How many events wait to be recorded. */
  readonly size: number;
  /** How many were counted instead of kept, and are not told of yet. */
  readonly lost: number;
  /** Numbers events and appends them in one write; what does not fit is counted. @throws unavailable `files.io` */
  append(events: readonly WorkloadEvent[]): Promise<void>;
  /** The oldest events that are kept, at most `limit`. */
  oldest(limit: number): Promise<readonly NumberedEvent[]>;
  /** Everything up to the number is recorded elsewhere and may go. */
  forget(throughSequence: number): Promise<void>;
}

interface Segment {
  readonly name: string;
  readonly first: number;
  last: number;
  bytes: number;
}

const segmentForm = /^(\d{16})\.events$/;
const digits = 16;

/** @throws as `ensurePrivateDirectory`, `readPrivateFile` */
export async function openSpool(options: SpoolOptions): Promise<Spool> {
  const { directory, maxBytes, now, segmentBytes = 1024 * 1024 } = options;
  await ensurePrivateDirectory(directory);
  const id = await readId(directory);
  const segments = await readSegments(directory);
  let sequence = Math.max(segments.at(-1)?.last ?? 0, await readForgotten(directory));
  let forgotten = (segments[0]?.first ?? sequence + 1) - 1;
  let lost = 0;

  const bytesKept = (): number => segments.reduce((sum, segment) => sum + segment.bytes, 0);

  const tail = (): Segment => {
    let last = segments.at(-1);
    if (last === undefined || last.bytes >= segmentBytes) {
      last = { name: `${String(sequence + 1).padStart(digits, '0')}.events`, first: sequence + 1, last: sequence, bytes: 0 };
      segments.push(last);
    }
    return last;
  };

  return {
    id,
    get size() {
      return sequence - forgotten;
    },
    get lost() {
      return lost;
    },
    async append(events) {
      let room = maxBytes - bytesKept();
      const segment = tail();
      const lines: string[] = [];
      let next = sequence;
      let bytes = 0;
      let dropped = 0;
      const offer = (event: WorkloadEvent): boolean => {
        const line = `${JSON.stringify({ ...event, sequence: next + 1 })}\n`;
        const size = Buffer.byteLength(line);
        if (size > room) return false;
        room -= size;
        bytes += size;
        next += 1;
        lines.push(line);
        return true;
      };
      // The gap is told before anything that came after it.
      let untold = lost;
      if (untold > 0 && offer(composeEvent({ at: now(), kind: 'gap', reason: 'spool.full', count: untold }))) untold = 0;
      for (const event of events) if (untold > 0 || dropped > 0 || !offer(event)) dropped += 1;
      // Before the write, or the segment would be taken for recorded and removed with what is being written to it.
      segment.last = next;
      if (lines.length > 0) await appendFile(path.join(directory, segment.name), lines.join(''), { mode: 0o600, flush: true });
      sequence = next;
      segment.bytes += bytes;
      lost = untold + dropped;
    },
    async oldest(limit) {
      const events: NumberedEvent[] = [];
      for (const segment of segments) {
        if (events.length >= limit) break;
        for (const event of await readSegment(path.join(directory, segment.name))) {
          if (event.sequence > forgotten && event.sequence <= sequence && events.length < limit) events.push(event);
        }
      }
      return events;
    },
    async forget(through) {
      if (through <= forgotten) return;
      forgotten = Math.min(through, sequence);
      for (let [oldest] = segments; oldest !== undefined && isOver(oldest, forgotten); [oldest] = segments) {
        // At once, so that nothing is appended to it meanwhile.
        segments.shift();
        // Written first: with all segments gone, the numbers go on from here after a restart.
        await writePrivateFile(path.join(directory, 'forgotten'), String(forgotten));
        await removeFile(path.join(directory, oldest.name));
      }
    },
  };
}

/** One that nothing was written to yet is where the next goes. */
function isOver({ first, last }: Segment, forgotten: number): boolean {
  return last >= first && last <= forgotten;
}

async function readId(directory: string): Promise<string> {
  const file = path.join(directory, 'spool');
  try {
    const id = (await readPrivateFile(file, 64)).toString('utf8');
    if (/^[0-9a-f]{32}$/.test(id)) return id;
  } catch (error) {
    if (!isSpiffeError(error, 'missing')) throw error;
  }
  const id = randomBytes(16).toString('hex');
  await writePrivateFile(file, id);
  return id;
}

async function readForgotten(directory: string): Promise<number> {
  try {
    const value = Number((await readPrivateFile(path.join(directory, 'forgotten'), 64)).toString('utf8'));
    return Number.isSafeInteger(value) && value >= 0 ? value : 0;
  } catch (error) {
    if (isSpiffeError(error, 'missing')) return 0;
    throw error;
  }
}

async function readSegments(directory: string): Promise<Segment[]> {
  const names = (await readdir(directory)).filter((name) => segmentForm.test(name)).toSorted();
  const segments: Segment[] = [];
  for (const name of names) {
    const first = Number(segmentForm.exec(name)?.[1]);
    const file = path.join(directory, name);
    const events = await readSegment(file);
    const whole = events.map((event) => `${JSON.stringify(event)}\n`).join('');
    const bytes = Buffer.byteLength(whole);
    // A line cut off by a crash goes, or the next one would be appended to it.
    if (bytes !== (await readFile(file)).length) await writePrivateFile(file, whole);
    segments.push({ name, first, last: events.at(-1)?.sequence ?? first - 1, bytes });
  }
  return segments;
}

/** The whole lines of a segment; what a crash cut off ends it. */
async function readSegment(file: string): Promise<NumberedEvent[]> {
  const events: NumberedEvent[] = [];
  for (const line of (await readFile(file, 'utf8')).split('\n')) {
    if (line === '') continue;
    try {
      events.push(JSON.parse(line) as NumberedEvent);
    } catch {
      break;
    }
  }
  return events;
}

/** Where no disk is to be used, and in tests: kept in memory, bounded by count. */
export function memorySpool(maxEvents: number, now: () => number): Spool {
  const id = randomBytes(16).toString('hex');
  let events: NumberedEvent[] = [];
  let sequence = 0;
  let lost = 0;
  return {
    id,
    get size() {
      return events.length;
    },
    get lost() {
      return lost;
    },
    append(some) {
      const gap = lost > 0 ? [composeEvent({ at: now(), kind: 'gap', reason: 'spool.full', count: lost })] : [];
      const room = maxEvents - events.length;
      if (gap.length > room) lost += some.length;
      else {
        const taken = [...gap, ...some].slice(0, room);
        lost = gap.length + some.length - taken.length;
        events.push(...taken.map((event) => ({ ...event, sequence: ++sequence })));
      }
      return Promise.resolve();
    },
    oldest: (limit) => Promise.resolve(events.slice(0, limit)),
    forget(through) {
      events = events.filter((event) => event.sequence > through);
      return Promise.resolve();
    },
  };
}

