import { afterEach, describe, expect, it } from 'vitest';
import { createHealth, openHealthPages } from '../../runtime/health.ts';
import { createMetrics } from '../../runtime/metrics.ts';

const stop: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of stop.splice(0)) await end();
});

describe('createHealth', () => {
  it('is ready when every condition is met, and names those that are not', async () => {
    const health = createHealth();
    expect(health.state.value).toEqual({ ready: true, unmet: [] });
    const store = health.condition('store', 'opening');
    const sync = health.condition('sync', 'no snapshot yet');
    store.meet();
    expect(health.state.value).toEqual({ ready: false, unmet: [{ name: 'sync', why: 'no snapshot yet' }] });
    const values = health.state.values(new AbortController().signal);
    await values.next();
    sync.meet();
    expect((await values.next()).value).toEqual({ ready: true, unmet: [] });
    sync.hold('too old');
    sync.hold('too old');
    expect((await values.next()).value).toMatchObject({ ready: false, unmet: [{ name: 'sync', why: 'too old' }] });
    expect(() => health.condition('sync', '')).toThrow(expect.objectContaining({ reason: 'health.exists' }));
  });
});

describe('the pages', () => {
  const open = async () => {
    const health = createHealth();
    const metrics = createMetrics();
    const pages = await openHealthPages({ health, metrics, host: '127.0.0.1', port: 0 });
    const abort = new AbortController();
    const serving = pages.serve(abort.signal);
    stop.push(async () => {
      abort.abort();
      await serving;
    });
    const get = (path: string, init?: RequestInit) => fetch(`http://127.0.0.1:${pages.port}${path}`, init);
    return { health, metrics, pages, get };
  };

  it('tell liveness, readiness with what is unmet, and metrics', async () => {
    const { health, metrics, get } = await open();
    const condition = health.condition('entries', 'loading');
    metrics.counter({ name: 'steeple_x_total', help: 'X.', labels: {} }).inc({});
    expect((await get('/live')).status).toBe(200);
    const held = await get('/ready?verbose');
    expect([held.status, await held.json()]).toEqual([503, { ready: false, unmet: [{ name: 'entries', why: 'loading' }] }]);
    condition.meet();
    expect((await get('/ready')).status).toBe(200);
    const scraped = await get('/metrics');
    expect(scraped.headers.get('content-type')).toContain('version=0.0.4');
    expect(await scraped.text()).toContain('steeple_x_total 1');
  });

  it('answer nothing else', async () => {
    const { get, pages } = await open();
    expect((await get('/')).status).toBe(404);
    expect((await get('/metrics/../debug')).status).toBe(404);
    expect((await get('/live', { method: 'POST', body: 'x' })).status).toBe(405);
    const head = await get('/live', { method: 'HEAD' });
    expect([head.status, await head.text()]).toEqual([200, '']);
    await expect(openHealthPages({ health: createHealth(), metrics: createMetrics(), host: '127.0.0.1', port: pages.port })).rejects.toMatchObject({
      kind: 'unavailable',
      reason: 'health.listen',
    });
  });
});
