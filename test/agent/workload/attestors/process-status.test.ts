import { describe, expect, it } from 'vitest';
import { capabilityNames, isTraced, parseProcessStatus } from '../../../../agent/workload/attestors/process-status.ts';

const text = (name: string, more = 'NoNewPrivs:\t1\nSeccomp:\t2\n'): string =>
  `Name:\t${name}\nUmask:\t0022\nUid:\t1\t2\t3\t4\nCapInh:\t0000000000000001\nCapPrm:\t0000000000003000\nCapEff:\t0000000000001000\n${more}Threads:\t1\n`;

describe('parseProcessStatus', () => {
  it('reads rights and ids', () => {
    expect(parseProcessStatus(text('sh'))).toEqual({
      effective: 0x1000n,
      permitted: 0x3000n,
      seccomp: 'filter',
      noNewPrivs: true,
      uids: [1, 2, 3, 4],
    });
    expect(parseProcessStatus(text('sh', 'NoNewPrivs:\t0\nSeccomp:\t1\n'))).toMatchObject({ seccomp: 'strict', noNewPrivs: false });
    expect(parseProcessStatus(text('sh', 'Seccomp:\t0\n'))).toMatchObject({ seccomp: 'disabled', noNewPrivs: undefined });
    expect(parseProcessStatus(text('sh', ''))).toMatchObject({ seccomp: undefined, noNewPrivs: undefined });
  });

  it('T-A15 is not led astray by a name', () => {
    expect(parseProcessStatus(text('CapEff:\t0000000000000000')).effective).toBe(0x1000n);
    expect(parseProcessStatus(text('x\\nSeccomp:\t0')).seccomp).toBe('filter');
  });

  it.each([
    '',
    text('sh').replace('CapEff', 'CapOff'),
    text('sh').replace('0000000000003000', ''),
    text('sh').replace('0000000000001000', '0x1000'),
    text('sh').replace('0000000000001000', '-000000000001000'),
    text('sh').replace('Seccomp:\t2', 'Seccomp:\t3'),
    text('sh').replace('NoNewPrivs:\t1', 'NoNewPrivs:\tyes'),
    text('sh').replace('1\t2\t3\t4', '1\t2\t3'),
  ])('refuses what is not of the form: %j', (broken) => {
    expect(() => parseProcessStatus(broken)).toThrow(expect.objectContaining({ kind: 'internal', reason: 'process.form' }));
  });
});

describe('capabilityNames', () => {
  it('are those of capabilities(7), and numbers beyond them', () => {
    expect(capabilityNames(0n)).toEqual([]);
    expect(capabilityNames((1n << 0n) | (1n << 12n) | (1n << 21n) | (1n << 40n) | (1n << 63n))).toEqual([
      'CAP_CHOWN',
      'CAP_NET_ADMIN',
      'CAP_SYS_ADMIN',
      'CAP_CHECKPOINT_RESTORE',
      '63',
    ]);
  });
});

describe('isTraced', () => {
  it('T-A06 looks at a bounded number of threads, all of them or none', async () => {
    // This program has one for each core and more.
    expect(await isTraced(process.pid)).toBe(false);
    await expect(isTraced(process.pid, 2)).rejects.toMatchObject({ kind: 'limited', reason: 'process.threads' });
    await expect(isTraced(0x7fff_ffff)).rejects.toMatchObject({ kind: 'unavailable', reason: 'process.gone' });
  });
});
