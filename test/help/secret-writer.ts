/**
 * Writes a set of files into a directory and kills itself, as a crash would, before the step whose number it is given:
 * `node secret-writer.ts DIRECTORY TEXT STEP`. Without a step it says how many there are.
 */
import { createSecretDirectory } from '../../runtime/secret-files.ts';
import { pairOf } from './secret-pair.ts';

const [path = '', text = '', fatal = ''] = process.argv.slice(2);
let steps = 0;
const directory = createSecretDirectory({
  path,
  onStep: () => {
    steps += 1;
    if (String(steps) === fatal) process.kill(process.pid, 'SIGKILL');
  },
});
await directory.replace(pairOf(text));
await directory.settle('');
process.stdout.write(`${String(steps)}\n`);
