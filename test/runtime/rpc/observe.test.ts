import { status as grpcStatus } from '@grpc/grpc-js';
import { expect, it } from 'vitest';
import { createLogger } from '../../../runtime/log.ts';
import { createMetrics } from '../../../runtime/metrics.ts';
import { observeCalls } from '../../../runtime/rpc/observe.ts';
import { createTestClock } from '../../help/clock.ts';
import { echoService } from '../../help/echo.ts';
import type { EchoPeer } from '../../help/echo.ts';

it('writes one line and counts one call per end, errors of ours as errors', () => {
  const lines: Record<string, unknown>[] = [];
  const logger = createLogger({ clock: createTestClock(), write: (line) => lines.push(JSON.parse(line) as Record<string, unknown>) });
  const metrics = createMetrics();
  const observe = observeCalls<EchoPeer>({ logger, metrics, name: 'echo', services: [echoService()], callerOf: (peer) => `peer:${peer.number}` });
  const end = { connection: { number: 7 }, requestId: 'r', ms: 2.5, error: undefined, incident: undefined };
  observe({ ...end, method: '/steeple.test.Echo/Say', code: grpcStatus.OK, reason: '' });
  observe({ ...end, method: '/steeple.test.Echo/Say', code: grpcStatus.NOT_FOUND, reason: 'entry.missing' });
  observe({ ...end, method: '/grpc.reflection.v1.X/Y', code: grpcStatus.INTERNAL, reason: 'internal', error: new TypeError('x'), incident: 'i' });
  expect(lines).toMatchObject([
    { level: 'info', event: 'rpc.call', method: '/steeple.test.Echo/Say', caller: 'peer:7', requestId: 'r', outcome: 'OK', ms: 2.5 },
    { level: 'info', outcome: 'NOT_FOUND', reason: 'entry.missing' },
    { level: 'error', event: 'rpc.failed', outcome: 'INTERNAL', incident: 'i', error: { name: 'TypeError' } },
  ]);
  expect(lines[0]).not.toHaveProperty('reason');
  const text = metrics.text();
  expect(text).toContain('steeple_echo_calls_total{method="/steeple.test.Echo/Say",code="OK"} 1\n');
  expect(text).toContain('steeple_echo_calls_total{method="other",code="INTERNAL"} 1\n');
  expect(text).toContain('steeple_echo_call_seconds_bucket{method="/steeple.test.Echo/Say",le="0.0025"} 2\n');
});
