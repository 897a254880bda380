/**
 * A program that connects to a Unix socket and then does what a test wants of its process: `node connector.ts PATH ACT`.
 * It says `connected` on its output, and acts when its input ends.
 */
import { spawn } from 'node:child_process';
import koffi from 'koffi';
import { connectSocket, openStreamSocket } from '../../runtime/linux.ts';

const [path = '', act = 'hold'] = process.argv.slice(2);
const fd = openStreamSocket();
connectSocket(fd, path);

/** Puts the connection where it survives an exec. */
function keepAsInput(): void {
  (koffi.load(null).func('int dup2(int from, int to)') as (from: number, to: number) => number)(fd, 0);
}

const acts: Readonly<Record<string, () => void>> = {
  hold: () => process.exit(0),
  'exec-other': () => {
    keepAsInput();
    process.execve?.('/bin/sleep', ['sleep', '60'], {});
  },
  'exec-same': () => {
    keepAsInput();
    process.execve?.(process.execPath, ['node', '-e', 'setTimeout(() => {}, 60000)'], {});
  },
  bequeath: () => {
    const heir = spawn('/bin/sleep', ['60'], { stdio: [fd, 'ignore', 'ignore'], detached: true });
    process.stdout.write(`heir ${String(heir.pid)}\n`, () => process.exit(0));
  },
};

process.stdout.write('connected\n');
process.stdin.resume();
process.stdin.once('end', () => acts[act]?.());
