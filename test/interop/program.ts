/**
 * Builds the Go program that plays other people's clients, once per process, and reads what it prints. Where Go is absent
 * tests skip and say so, but in CI its absence is a failure; what the program does is told in its own sources.
 */
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** One line of the program's output. */
export type ProgramLine = Readonly<Record<string, unknown>> & { readonly event: string; readonly at: number };

const here = path.dirname(fileURLToPath(import.meta.url));
const version = spawnSync('go', ['version'], { encoding: 'utf8' });

/** Why tests that need Go are skipped; `undefined` when they are not. */
export const withoutGo: string | undefined =
  version.status === 0 || process.env['CI'] !== undefined ? undefined : 'skipped: no `go` on PATH';

const programs = new Map<string, string>();

/** Path of the program from this folder's sources. Throws when it cannot be built, also because there is no Go. */
export function buildProgram(sources: 'go' | 'oidc' = 'go'): string {
  let built = programs.get(sources);
  if (built === undefined) {
    const folder = mkdtempSync(path.join(tmpdir(), 'steeple-interop-'));
    process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
    const target = path.join(folder, 'interop');
    // Static, so that it is all that a container needs.
    const build = spawnSync('go', ['build', '-o', target, '.'], { cwd: path.join(here, sources), encoding: 'utf8', env: { ...process.env, CGO_ENABLED: '0' } });
    if (build.status !== 0) throw new Error(`go build failed: ${build.error?.message ?? build.stderr}`);
    built = target;
    programs.set(sources, built);
  }
  return built;
}

export function readLines(output: string): ProgramLine[] {
  return output
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as ProgramLine);
}

/** Runs a command to its end. A refusal is an exit code and an `error` line, not a rejection. */
export async function runProgram(...args: readonly string[]): Promise<{ code: number; lines: readonly ProgramLine[] }> {
  const program = buildProgram();
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, { maxBuffer: 64 * 1024 * 1024 }, (error, stdout, stderr) => {
      const code = child.exitCode;
      if (code === null || code === 2) reject(new Error(`interop ${args.join(' ')}: ${error?.message ?? stderr}`));
      else resolve({ code, lines: readLines(stdout) });
    });
  });
}
