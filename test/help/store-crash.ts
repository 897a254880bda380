/**
 * A store whose writer is killed in the middle of its work, again and again, and what must hold each time it is opened.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { execPath } from 'node:process';
import { fileURLToPath } from 'node:url';

import { expect } from 'vitest';

import { openSqliteStore } from '../../server/store/sqlite.ts';
import { inspectStore } from '../../server/store/backup.ts';
import { systemClock } from '../../runtime/clock.ts';
import { exampleOrg, storePath } from './store.ts';

const program = fileURLToPath(new URL('./store-writer.ts', import.meta.url));

/** Kills the writer once it has said so many lines; tells what it said was durable. */
async function writeAndKill(path: string, round: number, afterLines: number): Promise<readonly string[]> {
  const child = spawn(execPath, [program, path, String(round)], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
    if (said.split('\n').length > afterLines) child.kill('SIGKILL');
  });
  await once(child, 'close');
  // The last line may be cut short by the kill.
  return said.slice(0, said.lastIndexOf('\n')).split('\n');
}

/** Tells how many entries the writers said were durable. */
export async function crashRounds(rounds: number): Promise<number> {
  const path = await storePath();
  const durable = new Set<string>();
  for (let round = 0; round < rounds; round += 1) {
    for (const id of await writeAndKill(path, round, 50 + (round % 20) * 37)) durable.add(id);
    await inspectStore(path);
    const store = await openSqliteStore({ path, trustDomain: exampleOrg, clock: systemClock });
    const found: string[] = [];
    await store.loadEntries((batch) => void found.push(...batch.map(({ entry }) => entry.id)));
    const there = new Set(found);
    expect([...durable].filter((id) => !there.has(id))).toEqual([]);
    // Each transaction wrote a pair.
    expect(found.filter((id) => !there.has(id.replace(/[01]$/, (last) => (last === '0' ? '1' : '0'))))).toEqual([]);
    // Row, change and event are one: as many of each, and no number missing.
    expect(store.position.revision).toBe(found.length);
    expect(await store.changesSince(0, found.length + 1)).toHaveLength(found.length);
    const newest = (await store.searchAudit({ newestFirst: true }, 1, '')).items[0];
    expect(newest?.number).toBe(found.length);
    await store.close();
  }
  return durable.size;
}
