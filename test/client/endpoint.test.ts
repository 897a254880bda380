import { afterEach, describe, expect, it } from 'vitest';
import { workloadEndpoint } from '../../client/endpoint.ts';

const right: readonly (readonly [string, string, string])[] = [
  ['WLEP-09', 'unix:///run/agent.sock', 'unix:/run/agent.sock'],
  ['WLEP-09', 'unix:/run/agent.sock', 'unix:/run/agent.sock'],
  ['WLEP-09 any character of a path', 'unix:///tmp/a b%20c/é.sock', 'unix:/tmp/a b%20c/é.sock'],
  ['WLEP-10', 'tcp://127.0.0.1:8000', '127.0.0.1:8000'],
  ['WLEP-10 highest port', 'tcp://10.1.2.3:65535', '10.1.2.3:65535'],
  ['WLEP-10 IPv6', 'tcp://[::1]:8000', '[::1]:8000'],
  ['WLEP-10 IPv4 in IPv6', 'tcp://[::ffff:127.0.0.1]:1', '[::ffff:127.0.0.1]:1'],
];

const wrong: readonly (readonly [string, string, string])[] = [
  ['WLEP-08', 'http://127.0.0.1:80', 'endpoint.scheme'],
  ['WLEP-08', '/run/agent.sock', 'endpoint.scheme'],
  ['WLEP-08', 'UNIX:///run/agent.sock', 'endpoint.scheme'],
  ['WLEP-08', ' unix:///run/agent.sock', 'endpoint.scheme'],
  ['WLEP-08', 'tcp:127.0.0.1:8000', 'endpoint.scheme'],
  ['WLEP-08', 'unix+http:///run/a', 'endpoint.scheme'],
  ['WLEP-09 authority', 'unix://host/run/agent.sock', 'endpoint.unix'],
  ['WLEP-09 relative', 'unix:run/agent.sock', 'endpoint.unix'],
  ['WLEP-09 relative', 'unix://run', 'endpoint.unix'],
  ['WLEP-09 no path', 'unix://', 'endpoint.unix'],
  ['WLEP-09 no path', 'unix:', 'endpoint.unix'],
  ['WLEP-09 root only', 'unix:///', 'endpoint.unix'],
  ['WLEP-09 query', 'unix:///run/agent.sock?a', 'endpoint.unix'],
  ['WLEP-09 fragment', 'unix:///run/agent.sock#a', 'endpoint.unix'],
  ['WLEP-09 zero byte', 'unix:///run/agent\0.sock', 'endpoint.unix'],
  ['WLEP-09 empty authority twice', 'unix:////run/agent.sock', 'endpoint.unix'],
  ['WLEP-10 name', 'tcp://localhost:8000', 'endpoint.tcp'],
  ['WLEP-10 path', 'tcp://127.0.0.1:8000/foo', 'endpoint.tcp'],
  ['WLEP-10 slash', 'tcp://127.0.0.1:8000/', 'endpoint.tcp'],
  ['WLEP-10 no port', 'tcp://127.0.0.1', 'endpoint.tcp'],
  ['WLEP-10 empty port', 'tcp://127.0.0.1:', 'endpoint.tcp'],
  ['WLEP-10 port 0', 'tcp://127.0.0.1:0', 'endpoint.tcp'],
  ['WLEP-10 port too high', 'tcp://127.0.0.1:65536', 'endpoint.tcp'],
  ['WLEP-10 user', 'tcp://u@127.0.0.1:80', 'endpoint.tcp'],
  ['WLEP-10 query', 'tcp://127.0.0.1:80?a', 'endpoint.tcp'],
  ['WLEP-10 short IPv4', 'tcp://127.1:80', 'endpoint.tcp'],
  ['WLEP-10 octal IPv4', 'tcp://127.0.0.01:80', 'endpoint.tcp'],
  ['WLEP-10 bare IPv6', 'tcp://::1:80', 'endpoint.tcp'],
  ['WLEP-10 zone', 'tcp://[fe80::1%lo]:80', 'endpoint.tcp'],
  ['WLEP-10 IPv4 in brackets', 'tcp://[127.0.0.1]:80', 'endpoint.tcp'],
  ['WLEP-10 one bracket', 'tcp://[::1:80', 'endpoint.tcp'],
];

const before = process.env['SPIFFE_ENDPOINT_SOCKET'];
afterEach(() => {
  if (before === undefined) delete process.env['SPIFFE_ENDPOINT_SOCKET'];
  else process.env['SPIFFE_ENDPOINT_SOCKET'] = before;
});

describe('addresses', () => {
  it.each(right)('%s: takes %s', (_rule, address, grpc) => {
    expect(workloadEndpoint(address)).toBe(grpc);
  });

  it.each(wrong)('%s: refuses %s', (_rule, address, reason) => {
    expect(() => workloadEndpoint(address)).toThrow(expect.objectContaining({ kind: 'invalid', reason }));
  });
});

describe('WLEP-07: without an address', () => {
  it('takes the environment', () => {
    process.env['SPIFFE_ENDPOINT_SOCKET'] = 'unix:///run/from-env.sock';
    expect(workloadEndpoint()).toBe('unix:/run/from-env.sock');
    expect(workloadEndpoint('unix:///run/given.sock')).toBe('unix:/run/given.sock');
  });

  it.each([['absent', undefined], ['empty', '']])('refuses when that is %s', (_what, value) => {
    if (value === undefined) delete process.env['SPIFFE_ENDPOINT_SOCKET'];
    else process.env['SPIFFE_ENDPOINT_SOCKET'] = value;
    expect(() => workloadEndpoint()).toThrow(expect.objectContaining({ reason: 'endpoint.missing' }));
  });
});
