// Runs `npm start`, waits until both workloads have exchanged data after a rotation of both and the third was refused,
// interrupts it as Ctrl-C does, and expects an orderly end. Prints what it saw; exits 1 when it did not come in time.
import { spawn } from 'node:child_process';

const limitMs = 240_000;
const child = spawn('npm', ['start'], { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
const seen = { exchanged: 0, alphaRotated: false, betaRotated: false, exchangedSince: 0, refused: 0 };
let enough = false;

const timer = setTimeout(() => {
  console.error('not seen in time:', JSON.stringify(seen));
  process.kill(-child.pid, 'SIGKILL');
  process.exit(1);
}, limitMs);

let rest = '';
child.stdout.setEncoding('utf8');
child.stdout.on('data', (text) => {
  process.stdout.write(text);
  const lines = (rest + text).split('\n');
  rest = lines.pop() ?? '';
  for (const line of lines) {
    if (/\balpha\s+rotated\b/.test(line)) seen.alphaRotated = true;
    if (/\bbeta\s+rotated\b/.test(line)) seen.betaRotated = true;
    if (/\bmallory\s+refused\b/.test(line)) seen.refused += 1;
    if (/\balpha\s+exchanged\b/.test(line)) {
      seen.exchanged += 1;
      if (seen.alphaRotated && seen.betaRotated) seen.exchangedSince += 1;
    }
  }
  if (!enough && seen.exchangedSince > 0 && seen.refused > 0) {
    enough = true;
    process.kill(-child.pid, 'SIGINT');
  }
});

child.on('exit', (code, signal) => {
  clearTimeout(timer);
  console.log(`ended with ${signal ?? code}; saw ${JSON.stringify(seen)}`);
  process.exit(enough && (code === 0 || code === 130 || signal === 'SIGINT') ? 0 : 1);
});
