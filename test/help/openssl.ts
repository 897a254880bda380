/**
 * The `openssl` command as a second opinion, on machines that have it.
 */
import { spawnSync } from 'node:child_process';

const isPresent = spawnSync('openssl', ['version']).status === 0;

/**
 * What the command printed on both channels; nothing where there is no openssl. A failing command throws with what it said.
 */
export function openssl(args: readonly string[], input: Uint8Array = new Uint8Array()): string | undefined {
  if (!isPresent) return undefined;
  const { status, stdout, stderr } = spawnSync('openssl', args, { input, encoding: 'utf8' });
  if (status !== 0) throw new Error(`openssl ${args.join(' ')}: ${stderr}${stdout}`);
  return stderr + stdout;
}
