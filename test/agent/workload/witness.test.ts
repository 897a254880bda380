import { describe, expect, it } from 'vitest';
import { createHandover, type DeliveredSvid } from '../../../agent/workload/witness.ts';
import { parseSpiffeId } from '../../../spiffe/id.ts';
import { testEntry } from '../../help/agent-server.ts';

const [web, db] = [testEntry('/web', ['a:1']), testEntry('/db', ['a:2'])];

function svidOf(entry: typeof web, serial: string): DeliveredSvid {
  return { entryId: entry.id, spiffeId: parseSpiffeId(entry.spiffeId), serial };
}

function recorded(): { readonly told: string[]; readonly handover: ReturnType<typeof createHandover> } {
  const told: string[] = [];
  const handover = createHandover({ delivered: (_caller, svid, before) => told.push(`${before?.serial ?? 'nothing'} -> ${svid.serial}`) }, { process: undefined });
  return { told, handover };
}

describe('what is handed over on one stream', () => {
  it('is told once, in however many messages it leaves', () => {
    const { told, handover } = recorded();
    handover.leaving([svidOf(web, '1'), svidOf(web, '1')]);
    handover.leaving([svidOf(web, '1'), svidOf(db, '2')]);
    expect(told).toEqual(['nothing -> 1', 'nothing -> 2']);
  });

  it('replaces what was sent for the same entry', () => {
    const { told, handover } = recorded();
    handover.leaving([svidOf(web, '1'), svidOf(db, '2')]);
    handover.leaving([svidOf(web, '3'), svidOf(db, '2')]);
    expect(told.at(-1)).toBe('1 -> 3');
    expect(told).toHaveLength(3);
  });

  it('replaces nothing once the entry had gone', () => {
    const { told, handover } = recorded();
    handover.leaving([svidOf(web, '1'), svidOf(db, '2')]);
    handover.keep([db]);
    handover.leaving([svidOf(web, '3'), svidOf(db, '4')]);
    expect(told.slice(2)).toEqual(['nothing -> 3', '2 -> 4']);
  });
});
