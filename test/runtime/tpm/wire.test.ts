import { describe, expect, it } from 'vitest';
import { finishTpm, joined, openTpm, readBytes, readRest, readSized, readU16, readU32, readU8, sized, u16, u32, u8 } from '../../../runtime/tpm/wire.ts';

describe('bytes of a TPM', () => {
  it('read back as they were written', () => {
    const cursor = openTpm(joined(u8(0xfe), u16(0xfedc), u32(0xfedc_ba98), sized(Buffer.from('ab'), Buffer.from('c')), sized(), u8(7), u8(8)));
    expect([readU8(cursor), readU16(cursor), readU32(cursor)]).toEqual([0xfe, 0xfedc, 0xfedc_ba98]);
    expect(Buffer.from(readSized(cursor)).toString()).toBe('abc');
    expect(readSized(cursor)).toHaveLength(0);
    expect(readBytes(cursor, 1)).toEqual(Buffer.of(7));
    expect(() => finishTpm(cursor)).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'tpm.trailing' }));
    expect(readRest(cursor)).toEqual(Buffer.of(8));
    finishTpm(cursor);
  });

  it.each([
    ['a number', 'tpm.truncated', () => readU16(openTpm(Buffer.of(1)))],
    ['a size', 'tpm.truncated', () => readSized(openTpm(Buffer.of(0)))],
    ['a run', 'tpm.truncated', () => readSized(openTpm(Buffer.of(0, 3, 1, 2)))],
    ['the end', 'tpm.truncated', () => readU8(openTpm(Buffer.of()))],
    ['a run larger than it may be', 'tpm.size', () => readSized(openTpm(Buffer.of(0, 3, 1, 2, 3)), 2)],
    ['more than any structure', 'tpm.size', () => openTpm(Buffer.alloc(4_097))],
  ])('are not read past %s', (_name, reason, read) => {
    expect(read).toThrow(expect.objectContaining({ kind: 'invalid', reason }));
  });
});
