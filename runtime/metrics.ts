/**
 * Counters, gauges and histograms, and the Prometheus text they are scraped as. Labels are closed sets declared with the
 * metric, never ids, so a registry has a largest size; what is measured is declared beside its owner.
 */
import { SpiffeError } from '../spiffe/errors.ts';

/** Each label's name with every value it may take. */
export type LabelSets = Readonly<Record<string, readonly string[]>>;

export type Labels<L extends LabelSets> = { readonly [K in keyof L]: L[K][number] };

export interface MetricDeclaration<L extends LabelSets = LabelSets> {
  /** `steeple_…`; counters end in `_total`, others in their unit. */
  readonly name: string;
  readonly help: string;
  readonly labels: L;
}

export interface Counter<L extends LabelSets> {
  inc(labels: Labels<L>, by?: number): void;
}

export interface Gauge<L extends LabelSets> {
  set(labels: Labels<L>, value: number): void;
}

export interface Histogram<L extends LabelSets> {
  observe(labels: Labels<L>, value: number): void;
}

export type MetricType = 'counter' | 'gauge' | 'histogram';

export interface Metrics {
  counter<const L extends LabelSets>(declaration: MetricDeclaration<L>): Counter<L>;
  gauge<const L extends LabelSets>(declaration: MetricDeclaration<L>): Gauge<L>;
  /** A gauge that is read when it is scraped; NaN leaves it out. */
  observedGauge(declaration: Omit<MetricDeclaration, 'labels'>, read: () => number): void;
  /** @param buckets upper bounds, ascending */
  histogram<const L extends LabelSets>(declaration: MetricDeclaration<L>, buckets: readonly number[]): Histogram<L>;
  /** Everything declared so far, by name. */
  declarations(): readonly (MetricDeclaration & { readonly type: MetricType })[];
  /** Prometheus text format 0.0.4. */
  text(): string;
}

/** Seconds, for what takes a millisecond to some seconds. */
export const secondsBuckets: readonly number[] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

interface Family {
  readonly declaration: MetricDeclaration & { readonly type: MetricType };
  lines(): Iterable<string>;
}

const nameForm = /^[a-z][a-z0-9_]*$/;

export function createMetrics(): Metrics {
  const families = new Map<string, Family>();

  const add = (family: Family): void => {
    const { name, labels } = family.declaration;
    if (!nameForm.test(name) || Object.keys(labels).some((label) => !nameForm.test(label) || label === 'le')) {
      throw new SpiffeError('internal', 'metrics.name', `metric ${name} has a name or label of the wrong form`);
    }
    if (families.has(name)) throw new SpiffeError('internal', 'metrics.exists', `metric ${name} is declared twice`);
    families.set(name, family);
  };

  const values = <L extends LabelSets>(declaration: MetricDeclaration<L>, type: MetricType): Map<string, number> => {
    const series = new Map<string, number>();
    // A counter that was never counted is a zero one can alert on.
    if (type === 'counter') for (const key of everySeries(declaration.labels)) series.set(key, 0);
    add({
      declaration: { ...declaration, type },
      *lines() {
        for (const [key, value] of series) yield `${declaration.name}${braced(key)} ${formatNumber(value)}`;
      },
    });
    return series;
  };

  return {
    counter(declaration) {
      const series = values(declaration, 'counter');
      return {
        inc(labels, by = 1) {
          const key = seriesKey(declaration, labels);
          series.set(key, (series.get(key) ?? 0) + by);
        },
      };
    },

    gauge(declaration) {
      const series = values(declaration, 'gauge');
      return { set: (labels, value) => void series.set(seriesKey(declaration, labels), value) };
    },

    observedGauge(declaration, read) {
      add({
        declaration: { ...declaration, labels: {}, type: 'gauge' },
        *lines() {
          const value = read();
          if (!Number.isNaN(value)) yield `${declaration.name} ${formatNumber(value)}`;
        },
      });
    },

    histogram(declaration, buckets) {
      const series = new Map<string, { counts: number[]; sum: number; count: number }>();
      add({
        declaration: { ...declaration, type: 'histogram' },
        *lines() {
          for (const [key, { counts, sum, count }] of series) {
            let below = 0;
            for (const [index, bound] of buckets.entries()) {
              below += counts[index] ?? 0;
              yield `${declaration.name}_bucket${braced(key, `le="${formatNumber(bound)}"`)} ${below}`;
            }
            yield `${declaration.name}_bucket${braced(key, 'le="+Inf"')} ${count}`;
            yield `${declaration.name}_sum${braced(key)} ${formatNumber(sum)}`;
            yield `${declaration.name}_count${braced(key)} ${count}`;
          }
        },
      });
      return {
        observe(labels, value) {
          const key = seriesKey(declaration, labels);
          let entry = series.get(key);
          if (entry === undefined) {
            entry = { counts: buckets.map(() => 0), sum: 0, count: 0 };
            series.set(key, entry);
          }
          const index = buckets.findIndex((bound) => value <= bound);
          if (index >= 0) entry.counts[index] = (entry.counts[index] ?? 0) + 1;
          entry.sum += value;
          entry.count += 1;
        },
      };
    },

    declarations: () => [...families.values()].map((family) => family.declaration).toSorted((a, b) => (a.name < b.name ? -1 : 1)),

    text() {
      const lines: string[] = [];
      for (const family of families.values()) {
        const { name, help, type } = family.declaration;
        lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...family.lines());
      }
      return `${lines.join('\n')}\n`;
    },
  };
}

/** The labels in their declared order, which makes equal labels equal keys. */
function seriesKey<L extends LabelSets>(declaration: MetricDeclaration<L>, labels: Labels<L>): string {
  const parts: string[] = [];
  for (const [name, allowed] of Object.entries(declaration.labels)) {
    const value = labels[name as keyof L];
    if (!allowed.includes(value)) {
      throw new SpiffeError('internal', 'metrics.label', `metric ${declaration.name} has no such value of label ${name}`);
    }
    parts.push(`${name}="${escaped(value)}"`);
  }
  return parts.join(',');
}

function everySeries(labels: LabelSets): string[] {
  let keys = [''];
  for (const [name, allowed] of Object.entries(labels)) {
    keys = keys.flatMap((key) => allowed.map((value) => `${key}${key === '' ? '' : ','}${name}="${escaped(value)}"`));
  }
  return keys;
}

function braced(key: string, extra = ''): string {
  const all = [key, extra].filter((part) => part !== '').join(',');
  return all === '' ? '' : `{${all}}`;
}

function formatNumber(value: number): string {
  if (value === Infinity) return '+Inf';
  return value === -Infinity ? '-Inf' : String(value);
}

function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"');
}
