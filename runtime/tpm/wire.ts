/**
 * Bytes as TPMs write them, both ways: big-endian numbers and runs of bytes behind a 16-bit size, read strictly and never
 * past their end. What the runs mean is `structures.ts`, which commands carry them the agent's.
 */
import { SpiffeError } from '../../spiffe/errors.ts';

/** A place in bytes that must not change while anything read from them is in use; only the functions of this file move it. */
export interface TpmCursor {
  readonly source: Uint8Array;
  at: number;
}

/** Larger than any structure of a TPM: what its buffers hold, 4 KiB. */
const maxStructureBytes = 4096;

/** @throws invalid `tpm.size` */
export function openTpm(source: Uint8Array): TpmCursor {
  if (source.length > maxStructureBytes) {
    throw new SpiffeError('invalid', 'tpm.size', `more than ${maxStructureBytes} bytes in a structure of a TPM`);
  }
  return { source, at: 0 };
}

/** @throws invalid `tpm.truncated` */
export function readBytes(cursor: TpmCursor, length: number): Uint8Array {
  const { source, at } = cursor;
  if (length > source.length - at) throw new SpiffeError('invalid', 'tpm.truncated', 'a structure of a TPM ends too early');
  cursor.at = at + length;
  return source.subarray(at, cursor.at);
}

/** @throws invalid `tpm.truncated` */
export function readU8(cursor: TpmCursor): number {
  return readBytes(cursor, 1)[0] ?? 0;
}

/** @throws invalid `tpm.truncated` */
export function readU16(cursor: TpmCursor): number {
  const [high = 0, low = 0] = readBytes(cursor, 2);
  return high * 0x100 + low;
}

/** Unsigned. @throws invalid `tpm.truncated` */
export function readU32(cursor: TpmCursor): number {
  return readU16(cursor) * 0x1_0000 + readU16(cursor);
}

/**
 * A run of bytes behind its size, as a view: everything called TPM2B.
 * @throws invalid `tpm.truncated|size`
 */
export function readSized(cursor: TpmCursor, maxBytes: number = maxStructureBytes): Uint8Array {
  const length = readU16(cursor);
  if (length > maxBytes) {
    const detail = { length, maxBytes };
    throw new SpiffeError('invalid', 'tpm.size', 'a part of a structure of a TPM is larger than it can be', { detail });
  }
  return readBytes(cursor, length);
}

/** Everything that is left, as a view. */
export function readRest(cursor: TpmCursor): Uint8Array {
  return readBytes(cursor, cursor.source.length - cursor.at);
}

/** @throws invalid `tpm.trailing` */
export function finishTpm(cursor: TpmCursor): void {
  if (cursor.at < cursor.source.length) {
    throw new SpiffeError('invalid', 'tpm.trailing', 'bytes follow the end of a structure of a TPM');
  }
}

export function u8(value: number): Uint8Array {
  return Uint8Array.of(value);
}

export function u16(value: number): Uint8Array {
  return Uint8Array.of(value >>> 8, value & 0xff);
}

export function u32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff);
}

/** The parts as one run behind its size: a TPM2B. */
export function sized(...parts: readonly Uint8Array[]): Uint8Array {
  const content = joined(...parts);
  return joined(u16(content.length), content);
}

export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts);
}
