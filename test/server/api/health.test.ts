import { expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import { createHealth } from '../../../runtime/health.ts';
import { createHealthApi } from '../../../server/api/health.ts';
import { operatorCaller, unary } from '../../help/api.ts';

const { 'grpc.health.v1.Health': service } = loadServices('grpc.health.v1.Health');

it('serves when every condition is met, and says so as it changes', async () => {
  const health = createHealth();
  const condition = health.condition('doors', 'not open yet');
  const api = createHealthApi(health);
  expect(await unary(service.Check, api.Check, {})).toEqual({ status: 'NOT_SERVING' });
  const stop = new AbortController();
  const watched = api.Watch({ service: '' }, operatorCaller, stop.signal)[Symbol.asyncIterator]();
  expect((await watched.next()).value).toEqual({ status: 'NOT_SERVING' });
  const next = watched.next();
  condition.meet();
  expect((await next).value).toEqual({ status: 'SERVING' });
  expect((await unary(service.List, api.List, {})).statuses).toMatchObject({ '': { status: 'SERVING' } });
  stop.abort(new Error('left'));
});

it('spire-wire 1.10: knows no health of single services', async () => {
  const api = createHealthApi(createHealth());
  await expect(unary(service.Check, api.Check, { service: 'x' })).rejects.toMatchObject({ kind: 'invalid', message: 'per-service health is not supported' });
});
