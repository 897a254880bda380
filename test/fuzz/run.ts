/**
 * Runs every `*.fuzz.ts` here for a number of seconds in all, and fails when one of them throws or takes too long.
 * Usage: `node test/fuzz/run.ts [seconds] [seed] [target …]`; what is found is printed in base64 and can be run again.
 */
import { readdir } from 'node:fs/promises';
import { performance } from 'node:perf_hooks';
import process from 'node:process';
import { createRandom, mutate } from './mutate.ts';
import type { FuzzTarget } from './target.ts';

/** One input that takes longer is a finding: a few hundred of them would hold the main thread for good. */
const maxInputMs = 1000;
const sliceMs = 250;

interface Progress {
  readonly target: FuzzTarget;
  readonly corpus: readonly Uint8Array[];
  readonly random: () => number;
  inputs: number;
}

async function main(args: readonly string[]): Promise<number> {
  const [seconds = '30', seedText, ...wanted] = args;
  const seed = seedText === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(seedText);
  const totalMs = Number(seconds) * 1000;
  if (!(totalMs >= 0) || !Number.isSafeInteger(seed)) {
    print('usage: node test/fuzz/run.ts [seconds] [seed] [target …]');
    return 2;
  }
  const targets = (await loadTargets()).filter(({ name }) => wanted.length === 0 || wanted.includes(name));
  if (targets.length === 0) {
    print(`no fuzz target ${wanted.join(', ')}`);
    return 2;
  }
  print(`fuzz seed ${seed}, ${seconds} s, targets ${targets.map(({ name }) => name).join(', ')}`);
  const all = targets.map(
    (target, index) => ({ target, corpus: target.corpus(), random: createRandom(seed + index), inputs: 0 }),
  );
  // The corpus itself first: it is the regression test of what was found before.
  for (const progress of all) for (const input of progress.corpus) if (!holds(progress, input)) return 1;
  const end = performance.now() + totalMs;
  for (let turn = 0; performance.now() < end; turn += 1) {
    const progress = all[turn % all.length];
    if (progress === undefined) break;
    const sliceEnd = Math.min(end, performance.now() + sliceMs);
    while (performance.now() < sliceEnd) if (!holds(progress, mutate(progress.corpus, progress.random))) return 1;
  }
  for (const { target, inputs } of all) print(`fuzz ${target.name}: ${inputs} inputs, nothing found`);
  return 0;
}

async function loadTargets(): Promise<readonly FuzzTarget[]> {
  const files = (await readdir(import.meta.dirname)).filter((file) => file.endsWith('.fuzz.ts')).toSorted();
  return await Promise.all(
    files.map(async (file) => {
      const module = (await import(`./${file}`)) as FuzzTarget | { readonly target: FuzzTarget };
      return 'target' in module ? module.target : module;
    }),
  );
}

function holds(progress: Progress, input: Uint8Array): boolean {
  const started = performance.now();
  progress.inputs += 1;
  try {
    progress.target.run(input);
    if (performance.now() - started < maxInputMs) return true;
    // A busy machine can be slow once; only what is slow again is slow.
    const again = performance.now();
    progress.target.run(input);
    if (performance.now() - again < maxInputMs) return true;
    return found(progress, input, 'takes too long');
  } catch (error) {
    return found(progress, input, error instanceof Error ? (error.stack ?? error.message) : String(error));
  }
}

function found(progress: Progress, input: Uint8Array, what: string): false {
  print(`fuzz ${progress.target.name}: FOUND after ${progress.inputs} inputs: ${what}`);
  print(`input ${Buffer.from(input).toString('base64')}`);
  return false;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));
