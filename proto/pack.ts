/**
 * Copies the .proto files to where the built package looks for them. Run by `npm run build`, after the compiler.
 */
import { cpSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const from = import.meta.dirname;
const to = join(from, '..', 'dist', 'proto');

for (const name of readdirSync(from, { recursive: true, encoding: 'utf8' })) {
  if (name.endsWith('.proto')) cpSync(join(from, name), join(to, name));
}
