import { appendFile, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { composeEvent, type WorkloadEvent } from '../../../agent/events/event.ts';
import { openSpool, type Spool } from '../../../agent/events/spool.ts';

let parent: string;
let directory: string;
beforeEach(async () => {
  parent = await mkdtemp(path.join(tmpdir(), 'steeple-spool-'));
  directory = path.join(parent, 'events');
});
afterEach(() => rm(parent, { recursive: true, force: true }));

const event = (entryId: string): WorkloadEvent => composeEvent({ at: 1, kind: 'attested', entryId });
const open = (maxBytes = 1_000_000, segmentBytes = 1_000): Promise<Spool> => openSpool({ directory, maxBytes, segmentBytes, now: () => 5 });
const ids = async (spool: Spool): Promise<string[]> => (await spool.oldest(1_000)).map(({ sequence, entryId, kind, count }) => `${String(sequence)}:${kind === 'gap' ? `gap${String(count)}` : entryId}`);

it('numbers events without gaps, over segments and restarts, until they are forgotten', async () => {
  const first = await open();
  for (let i = 1; i <= 30; i += 1) await first.append([event(`e${String(i)}`)]);
  expect((await readdir(directory)).filter((name) => name.endsWith('.events')).length).toBeGreaterThan(3);
  const second = await open();
  expect(second.id).toBe(first.id);
  await second.append([event('e31')]);
  expect(await ids(second)).toEqual(Array.from({ length: 31 }, (_, i) => `${String(i + 1)}:e${String(i + 1)}`));
  await second.forget(29);
  expect(await ids(second)).toEqual(['30:e30', '31:e31']);
  expect(second.size).toBe(2);
});

it('goes on with its numbers when everything was forgotten', async () => {
  const first = await open();
  await first.append([event('a'), event('b')]);
  await first.forget(2);
  const second = await open();
  await second.append([event('c')]);
  expect(await ids(second)).toEqual(['3:c']);
});

it('loses nothing that is appended while what came before is forgotten', async () => {
  const spool = await open();
  const expected: string[] = [];
  for (let i = 1; i <= 60; i += 2) {
    await spool.append([event(`e${String(i)}`)]);
    const kept = await spool.oldest(100);
    // Either may come first, and neither waits for the other.
    const forgetting = () => spool.forget(kept.at(-1)?.sequence ?? 0);
    const appending = () => spool.append([event(`e${String(i + 1)}`)]);
    await Promise.all(i % 4 === 1 ? [forgetting(), appending()] : [appending(), forgetting()]);
    expected.push(`${String(i + 1)}:e${String(i + 1)}`);
    expect(await ids(spool)).toEqual(expected.slice(-1));
    expect((await ids(await open())).slice(-1)).toEqual(expected.slice(-1));
  }
});

it('counts what does not fit, and tells of it before what comes later', async () => {
  const spool = await open(600);
  for (let i = 1; i <= 10; i += 1) await spool.append([event(`e${String(i)}`)]);
  const kept = await spool.oldest(100);
  expect(kept.length).toBeLessThan(10);
  expect(spool.lost).toBe(10 - kept.length);
  await spool.forget(kept.length);
  await spool.append([event('later')]);
  expect(await ids(spool)).toEqual([`${String(kept.length + 1)}:gap${String(10 - kept.length)}`, `${String(kept.length + 2)}:later`]);
  expect(spool.lost).toBe(0);
});

it('takes up after a crash that cut a line off', async () => {
  const first = await open();
  await first.append([event('a'), event('b')]);
  const [segment] = (await readdir(directory)).filter((name) => name.endsWith('.events'));
  await appendFile(path.join(directory, segment!), '{"sequence":3,"at":1,"ki');
  const second = await open();
  await second.append([event('c')]);
  expect(await ids(second)).toEqual(['1:a', '2:b', '3:c']);
  expect(await ids(await open())).toEqual(['1:a', '2:b', '3:c']);
});
