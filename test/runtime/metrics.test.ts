import { describe, expect, it } from 'vitest';
import { createMetrics } from '../../runtime/metrics.ts';

describe('metrics', () => {
  it('are scraped as Prometheus text', () => {
    const metrics = createMetrics();
    const signs = metrics.counter({ name: 'steeple_signs_total', help: 'Signed.', labels: { kind: ['x509', 'jwt'], outcome: ['ok', 'error'] } });
    const behind = metrics.gauge({ name: 'steeple_revisions_behind', help: 'Behind.', labels: {} });
    const seconds = metrics.histogram({ name: 'steeple_sign_seconds', help: 'Took.', labels: { kind: ['x509'] } }, [0.1, 1]);
    let expiry = Number.NaN;
    metrics.observedGauge({ name: 'steeple_expiry_seconds', help: 'Left.' }, () => expiry);
    signs.inc({ kind: 'x509', outcome: 'ok' });
    signs.inc({ outcome: 'ok', kind: 'x509' }, 2);
    behind.set({}, 7);
    for (const value of [0.1, 0.5, 5]) seconds.observe({ kind: 'x509' }, value);
    expect(metrics.text()).toBe(`# HELP steeple_signs_total Signed.
# TYPE steeple_signs_total counter
steeple_signs_total{kind="x509",outcome="ok"} 3
steeple_signs_total{kind="x509",outcome="error"} 0
steeple_signs_total{kind="jwt",outcome="ok"} 0
steeple_signs_total{kind="jwt",outcome="error"} 0
# HELP steeple_revisions_behind Behind.
# TYPE steeple_revisions_behind gauge
steeple_revisions_behind 7
# HELP steeple_sign_seconds Took.
# TYPE steeple_sign_seconds histogram
steeple_sign_seconds_bucket{kind="x509",le="0.1"} 1
steeple_sign_seconds_bucket{kind="x509",le="1"} 2
steeple_sign_seconds_bucket{kind="x509",le="+Inf"} 3
steeple_sign_seconds_sum{kind="x509"} 5.6
steeple_sign_seconds_count{kind="x509"} 3
# HELP steeple_expiry_seconds Left.
# TYPE steeple_expiry_seconds gauge
`);
    expiry = 60;
    expect(metrics.text()).toContain('steeple_expiry_seconds 60\n');
  });

  it('refuse values outside of their closed sets, repeats and odd names', () => {
    const metrics = createMetrics();
    const counter = metrics.counter({ name: 'a_total', help: 'A.', labels: { outcome: ['ok'] } });
    expect(() => counter.inc({ outcome: 'spiffe://x/y' as 'ok' })).toThrow(expect.objectContaining({ reason: 'metrics.label' }));
    expect(() => counter.inc({} as never)).toThrow(expect.objectContaining({ reason: 'metrics.label' }));
    expect(() => metrics.gauge({ name: 'a_total', help: 'Again.', labels: {} })).toThrow(expect.objectContaining({ reason: 'metrics.exists' }));
    expect(() => metrics.gauge({ name: 'a-b', help: '', labels: {} })).toThrow(expect.objectContaining({ reason: 'metrics.name' }));
    expect(() => metrics.gauge({ name: 'b', help: '', labels: { le: ['1'] } })).toThrow(expect.objectContaining({ reason: 'metrics.name' }));
    expect(metrics.text()).not.toContain('spiffe://');
  });

  it('can be listed', () => {
    const metrics = createMetrics();
    metrics.gauge({ name: 'b_seconds', help: 'B.', labels: {} });
    metrics.counter({ name: 'a_total', help: 'A.', labels: { outcome: ['ok'] } });
    expect(metrics.declarations()).toEqual([
      { name: 'a_total', help: 'A.', labels: { outcome: ['ok'] }, type: 'counter' },
      { name: 'b_seconds', help: 'B.', labels: {}, type: 'gauge' },
    ]);
  });
});
