import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { parseStat } from '../../runtime/peer.ts';
import { peerOfProcess } from '../help/peer.ts';

const statOf = (name: string): string =>
  `4711 (${name}) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 200 18446744073709551615 ` +
  '94000000001 94000000002 140700000003 0 0';

describe('parseStat', () => {
  it.each([
    ['plain', 'node'],
    ['closing parentheses and blanks', 'a) R 1 2 3 (b'],
    ['a whole forged line', 'x) Z 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1 1'],
    ['a line end', 'a\n(b) S 9'],
    ['empty', ''],
  ])('T-A15 reads behind a name that is %s', (_, name) => {
    expect(parseStat(statOf(name))).toEqual({
      state: 'S',
      startTime: '987654',
      startCode: '94000000001',
      startStack: '140700000003',
    });
  });

  const broken = ['', '1 (a) S', '1 (a) S 1 2 3', statOf('a').replace('987654', '-1'), statOf('a').replace('987654', 'x')];

  it.each(broken)('refuses %j', (text) => {
    expect(parseStat(text)).toBeUndefined();
  });
});

describe('Peer', () => {
  it('knows a process from its end, even while nobody reaps it', async () => {
    const child = spawn('/bin/sleep', ['60'], { stdio: 'ignore' });
    const exit = once(child, 'exit');
    const held = peerOfProcess(child.pid ?? -1);
    expect(held.peer.stillTheSame()).toBe(true);
    expect(held.peer.exited()).toBe(false);
    child.kill('SIGKILL');
    await exit;
    expect(held.peer.exited()).toBe(true);
    expect(held.peer.stillTheSame()).toBe('peer.exited');
    held.close();
  });

  it('answers closed once the connection is, alive or not', () => {
    const held = peerOfProcess(process.pid);
    expect(held.peer.stillTheSame()).toBe(true);
    held.close();
    expect(held.peer.stillTheSame()).toBe('peer.closed');
    expect(held.peer.exited()).toBe(true);
  });

  it('does not take another process for the same', async () => {
    const a = spawn('/bin/sleep', ['60'], { stdio: 'ignore' });
    const b = spawn('/bin/sleep', ['60'], { stdio: 'ignore' });
    const first = peerOfProcess(a.pid ?? -1);
    const second = peerOfProcess(b.pid ?? -1);
    expect(first.peer.facts).not.toEqual(second.peer.facts);
    first.close();
    second.close();
    const exits = [once(a, 'exit'), once(b, 'exit')];
    a.kill('SIGKILL');
    b.kill('SIGKILL');
    await Promise.all(exits);
  });
});
