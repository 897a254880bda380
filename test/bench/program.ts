/**
 * A server or an agent as a process of its own, told by its first argument, with the configuration file that the second
 * names. What starts it, measures it and stops it is `processes.ts`.
 */
import process from 'node:process';
import { runAgent } from '../../agent/main.ts';
import { runServer } from '../../server/main.ts';

const stopping = new AbortController();
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stopping.abort(new Error(signal)));

const io = {
  out: (text: string): void => void process.stdout.write(text),
  err: (text: string): void => void process.stderr.write(text),
  env: process.env,
  signal: stopping.signal,
};
const [role, config = ''] = process.argv.slice(2);
// Profiles are written by the runtime when the process ends by itself.
process.exitCode =
  role === 'server' ? await runServer({ config, overlays: [] }, 'bench', io) : await runAgent(['--config', config], 'bench', io);
