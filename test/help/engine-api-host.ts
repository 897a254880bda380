/**
 * The stand-in engine as a process of its own, for tests that need it to be another user's: socket path and one container
 * as JSON are its arguments. Prints `ready` once it listens, and ends with its input.
 */
import { startEngineApi } from './engine-api.ts';
import type { StandInContainer } from './engine-api.ts';

const [socketPath = '', container = ''] = process.argv.slice(2);
const api = await startEngineApi(socketPath);
api.start(JSON.parse(container) as StandInContainer);
process.stdout.write(`${JSON.stringify({ event: 'ready' })}\n`);
process.stdin.resume().on('end', () => process.exit(0));
