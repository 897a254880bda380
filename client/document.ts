/**
 * Reads a file that a user of the library named, with a bound. Watching files, and judging who may write them, are left to
 * the user.
 */
import { createReadStream } from 'node:fs';
import { SpiffeError } from '../spiffe/errors.ts';

/** As of the PEM reader, and more than any bundle document may have. */
const maxBytes = 4_194_304;

/** @throws missing `file.missing`, invalid `file.too-large`, unavailable `file.read` */
export async function readDocument(path: string): Promise<string> {
  const chunks: Buffer[] = [];
  try {
    // One byte more than allowed; sizes are not asked for, because pipes and the like have none.
    for await (const chunk of createReadStream(path, { end: maxBytes })) chunks.push(chunk as Buffer);
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown';
    if (code === 'ENOENT') throw new SpiffeError('missing', 'file.missing', `${path} does not exist`, { cause });
    throw new SpiffeError('unavailable', 'file.read', `${path} cannot be read (${code})`, { detail: { code }, cause });
  }
  const bytes = Buffer.concat(chunks);
  if (bytes.length > maxBytes) throw new SpiffeError('invalid', 'file.too-large', `${path} has more than ${maxBytes} bytes`);
  return bytes.toString('utf8');
}
