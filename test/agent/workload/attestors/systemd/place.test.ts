import { describe, expect, it } from 'vitest';
import { placeAt, placeOf } from '../../../../../agent/workload/attestors/systemd/place.ts';
import { parseCgroups } from '../../../../../agent/workload/cgroup.ts';

const long = 'x'.repeat(260);

describe('a path', () => {
  it.each([
    ['/', '-.slice', []],
    ['/init.scope', 'init.scope', []],
    ['/system.slice/nginx.service', 'nginx.service', ['system.slice']],
    ['/system.slice/system-getty.slice/getty@tty1.service', 'getty@tty1.service', ['system.slice', 'system-getty.slice']],
    ['/system.slice', 'system.slice', ['system.slice']],
    ['/user.slice/user-1000.slice/session-3.scope', 'session-3.scope', ['user.slice', 'user-1000.slice']],
    ['/system.slice/a\\x2db.service', 'a\\x2db.service', ['system.slice']],
    ['/system.slice/docker-0123.scope/payload', 'docker-0123.scope', ['system.slice']],
    ['/system.slice/run-credentials.mount', 'run-credentials.mount', ['system.slice']],
    ['/dev-sda1.swap', 'dev-sda1.swap', []],
    ['/docker/0123', '-.slice', []],
    ['/kubepods.slice/0123', 'kubepods.slice', ['kubepods.slice']],
    ['/lxc.payload.one/system.slice/nginx.service', '-.slice', []],
    ['/../nginx.service', '-.slice', []],
    ['/system.slice/nginx.service (deleted)', 'system.slice', ['system.slice']],
    // What the kernel would take for a file of its own, or begins with an underscore, has one in front.
    ['/system.slice/_cpu.service', 'cpu.service', ['system.slice']],
    ['/_cgroup.slice/__x.service', '_x.service', ['cgroup.slice']],
    ['/system.slice/a@.service', 'system.slice', ['system.slice']],
    ['/system.slice/@a.service', 'system.slice', ['system.slice']],
    ['/a@b.slice/nginx.service', '-.slice', []],
    ['/system.slice/.service', 'system.slice', ['system.slice']],
    ['/system.slice/nginx.services', 'system.slice', ['system.slice']],
    ['/system.slice/nginx.service\n', 'system.slice', ['system.slice']],
    [`/system.slice/${long}.service`, 'system.slice', ['system.slice']],
    [`/${long}.slice/nginx.service`, '-.slice', []],
  ])('%s is in %s', (path, unit, slices) => {
    expect(placeAt(path)).toEqual({ unit, slices });
  });

  it.each([
    '/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service',
    '/user.slice/user-1000.slice/user@1000.service/nginx.service',
    '/user.slice/user-1000.slice/user@1000.service/system.slice/nginx.service',
    '/user.slice/user-1000.slice/user@1000.service/init.scope',
  ])('T-A07 of a user’s service manager is the user’s: %s', (path) => {
    expect(placeAt(path)).toEqual({ unit: 'user@1000.service', slices: ['user.slice', 'user-1000.slice'] });
  });

  it('T-A07 below a unit is the unit’s, whatever it is called', () => {
    expect(placeAt('/system.slice/ci.service/system.slice/nginx.service').unit).toBe('ci.service');
    expect(placeAt('/system.slice/ci.service/nginx.service').unit).toBe('ci.service');
  });
});

describe('the hierarchy', () => {
  const nginx = { unit: 'nginx.service', slices: ['system.slice'] };
  it.each([
    ['v2', '0::/system.slice/nginx.service\n'],
    ['v1', '12:cpu,cpuacct:/\n1:name=systemd:/system.slice/nginx.service\n'],
    ['hybrid', '4:memory:/other.slice/x.service\n1:name=systemd:/system.slice/nginx.service\n0::/system.slice/nginx.service\n'],
    ['v1 beside a v2 that is not used', '1:name=systemd:/system.slice/nginx.service\n0::/\n'],
    ['v2 beside a v1 that is not used', '1:name=systemd:/\n0::/system.slice/nginx.service\n'],
    ['hybrid with groups below the unit in one of them', '1:name=systemd:/system.slice/nginx.service\n0::/system.slice/nginx.service/workers\n'],
  ])('%s', (_name, text) => {
    expect(placeOf(parseCgroups(text))).toEqual(nginx);
  });

  it('T-A07 two that disagree are refused', () => {
    const refused = expect.objectContaining({ kind: 'denied', reason: 'systemd.cgroup.ambiguous' });
    for (const other of ['/system.slice/apache.service', '/other.slice/nginx.service', '/nginx.service', '/docker/0123']) {
      expect(() => placeOf(parseCgroups(`1:name=systemd:/system.slice/nginx.service\n0::${other}\n`))).toThrow(refused);
    }
  });

  it('T-A07 a controller’s says nothing', () => {
    expect(placeOf(parseCgroups('4:memory:/system.slice/nginx.service\n3:name=other:/system.slice/nginx.service\n0::/\n')).unit).toBe('-.slice');
  });
});
