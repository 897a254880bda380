/**
 * What a figure is: a line of JSON with its aim, its distribution or value, the machine and the versions it was taken on.
 * How figures are taken is left to the files beside this one.
 */
import { readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

export type Unit = 'ms' | 's' | 'us' | 'per second' | 'bytes' | 'MB' | 'bytes per minute' | 'percent of a core' | 'failures';

export interface Distribution {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
  readonly n: number;
}

/** What a bench hands over. */
export interface Figure {
  readonly figure: string;
  readonly unit: Unit;
  /** What is wanted of it, in words; absent where there is no aim. */
  readonly aim?: string;
  readonly distribution?: Distribution;
  readonly value?: number;
  /** What else was seen on the way. */
  readonly also?: Readonly<Record<string, unknown>>;
  /** Why there is no number. */
  readonly skipped?: string;
}

export type Report = (figure: Figure) => void;

export interface Bench {
  readonly name: string;
  /** Seconds after which it is given up. */
  readonly within: number;
  run(report: Report): Promise<void>;
}

/** Of numbers in any order; needs one at least. */
export function distributionOf(values: readonly number[]): Distribution {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number): number => rounded(sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN);
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1), n: sorted.length };
}

export function rounded(value: number): number {
  return Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3));
}

/** Share of both cores that the host and others took while the figure was made. */
export interface Disturbance {
  /** Percent of all processor time that the host gave to other machines. */
  readonly steal: number;
  /** Runnable processes in the last minute, at the start. */
  readonly load: number;
}

export interface ProcessorTimes {
  readonly total: number;
  readonly steal: number;
}

export function processorTimes(): ProcessorTimes {
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n');
  const ticks = line.split(/\s+/).slice(1).map(Number);
  return { total: ticks.slice(0, 8).reduce((sum, part) => sum + part, 0), steal: ticks[7] ?? 0 };
}

export function stealPercent(before: ProcessorTimes, after: ProcessorTimes): number {
  return rounded((100 * (after.steal - before.steal)) / Math.max(1, after.total - before.total));
}

/** Of the last minute. */
export function loadAverage(): number {
  return Number(readFileSync('/proc/loadavg', 'utf8').split(' ')[0]);
}

interface PackageVersion {
  readonly version: string;
}

/** One line of JSON. */
export function lineOf(figure: Figure, command: string, disturbance: Disturbance): string {
  const [cpu] = cpus();
  const manifest = JSON.parse(readFileSync(fileURLToPath(new URL('../../package.json', import.meta.url)), 'utf8')) as PackageVersion;
  return JSON.stringify({
    ...figure,
    machine: { cpu: cpu?.model ?? 'unknown', cores: cpus().length, memory: totalmem(), kernel: release() },
    disturbance,
    versions: { node: process.version, steeple: manifest.version, openssl: process.versions.openssl },
    command,
  });
}
