import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseCgroups, readCgroups, readOwnCgroups } from '../../../agent/workload/cgroup.ts';

describe('parseCgroups', () => {
  it('reads v1, v2 and names with colons in them', () => {
    const text = '12:cpu,cpuacct:/a/b:c\n1:name=systemd:/system.slice/x.service\n0::/../docker:1\n';
    expect(parseCgroups(text)).toEqual([
      { hierarchy: 12, controllers: 'cpu,cpuacct', path: '/a/b:c' },
      { hierarchy: 1, controllers: 'name=systemd', path: '/system.slice/x.service' },
      { hierarchy: 0, controllers: '', path: '/../docker:1' },
    ]);
    expect(parseCgroups('')).toEqual([]);
  });

  it.each(['0::/a', '0::a\n', '0::\n', ':cpu:/a\n', 'x:cpu:/a\n', '-1:cpu:/a\n', '0:/a\n', '\n', '0::/a\n\n', '0::/a\n1:cpu'])(
    'refuses what is not of the form: %j',
    (broken) => {
      expect(() => parseCgroups(broken)).toThrow(expect.objectContaining({ kind: 'internal', reason: 'cgroup.form' }));
    },
  );
});

describe('readCgroups', () => {
  it('reads what the kernel lists, and leaves no descriptor behind', () => {
    const text = readFileSync('/proc/self/cgroup', 'utf8');
    const before = readdirSync('/proc/self/fd').length;
    expect(readOwnCgroups().map(({ hierarchy, controllers, path }) => `${String(hierarchy)}:${controllers}:${path}\n`).join('')).toBe(text);
    expect(readCgroups(process.pid)).toEqual(readOwnCgroups());
    expect(() => readCgroups(0x7fff_ffff)).toThrow(expect.objectContaining({ kind: 'unavailable', reason: 'cgroup.gone' }));
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
  });
});
