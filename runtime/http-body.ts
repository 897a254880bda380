/**
 * The body of an HTTP answer, whole or by lines, with its bound held while it is read. However small the pieces are that
 * it comes in, what is kept is the bytes alone.
 */
import type { IncomingMessage } from 'node:http';
import { SpiffeError } from '../spiffe/errors.ts';

const FIRST_BYTES = 4096;

/** Bytes put together without keeping the pieces, which cost a hundred bytes each however short. */
interface Gathered {
  readonly length: number;
  append(piece: Uint8Array): void;
  /** Hands the bytes over and starts anew. */
  take(): Buffer;
}

/** @throws limited `http.too-large` from `append` */
function gather(maxBytes: number): Gathered {
  let held = Buffer.alloc(0);
  let length = 0;
  return {
    get length() {
      return length;
    },
    append(piece) {
      const needed = length + piece.length;
      if (needed > maxBytes) throw tooLarge(maxBytes);
      if (needed > held.length) {
        const larger = Buffer.allocUnsafe(Math.min(maxBytes, Math.max(FIRST_BYTES, needed, 2 * held.length)));
        held.copy(larger, 0, 0, length);
        held = larger;
      }
      held.set(piece, length);
      length = needed;
    },
    take() {
      const taken = held.subarray(0, length);
      held = Buffer.alloc(0);
      length = 0;
      return taken;
    },
  };
}

function tooLarge(maxBytes: number): SpiffeError {
  return new SpiffeError('limited', 'http.too-large', 'the answer is larger than allowed', { detail: { maxBytes } });
}

/** @throws limited `http.too-large`, before reading where the head announces it; what the connection failed with */
export async function readBody(answer: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const announced = Number(answer.headers['content-length'] ?? 0);
  if (announced > maxBytes) {
    answer.destroy();
    throw tooLarge(maxBytes);
  }
  const body = gather(maxBytes);
  // Leaving the loop by a throw destroys the answer and its connection.
  for await (const piece of answer as AsyncIterable<Buffer>) body.append(piece);
  return body.take();
}

/** Lines end with LF or CR LF. Reads on only as fast as lines are taken. @throws as `readBody`, by line */
export async function* bodyLines(answer: IncomingMessage, maxLineBytes: number): AsyncIterableIterator<Buffer> {
  const line = gather(maxLineBytes);
  for await (const piece of answer as AsyncIterable<Buffer>) {
    let from = 0;
    for (let end = piece.indexOf(10); end >= 0; end = piece.indexOf(10, from)) {
      line.append(piece.subarray(from, end));
      from = end + 1;
      yield withoutReturn(line.take());
    }
    line.append(piece.subarray(from));
  }
  if (line.length > 0) yield withoutReturn(line.take());
}

function withoutReturn(line: Buffer): Buffer {
  return line.at(-1) === 13 ? line.subarray(0, -1) : line;
}
