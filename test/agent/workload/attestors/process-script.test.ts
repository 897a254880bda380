import { describe, expect, it } from 'vitest';
import { parseShebang } from '../../../../agent/workload/attestors/process-script.ts';

const sh = { interpreter: '/bin/sh', argument: undefined };

describe('parseShebang', () => {
  it.each([
    ['#!/bin/sh\necho', sh],
    ['#!/bin/sh', sh],
    ['#! \t/bin/sh \t\nx', sh],
    ['#!/bin/sh -e\n', { interpreter: '/bin/sh', argument: '-e' }],
    ['#!/usr/bin/env -S python3 -u\n', { interpreter: '/usr/bin/env', argument: '-S python3 -u' }],
    [`#!/bin/sh\n${'x'.repeat(10_000)}`, sh],
    [`#!/${'x'.repeat(252)}\n`, { interpreter: `/${'x'.repeat(252)}`, argument: undefined }],
  ])('reads what the kernel reads: %j', (text, expected) => {
    expect(parseShebang(Buffer.from(text))).toEqual(expected);
  });

  it.each([
    '',
    '#!',
    '#!\n/bin/sh\n',
    ' #!/bin/sh\n',
    '#/bin/sh\n',
    '#!bin/sh\n',
    '#!/bin/sh\r\n',
    '#!/bin/s\u0000h\n',
    `#!/${'x'.repeat(253)}\n`,
    '\u007fELF',
  ])('and nothing else: %j', (text) => {
    expect(parseShebang(Buffer.from(text))).toBeUndefined();
  });

  it('nor bytes that are no text', () => {
    expect(parseShebang(Buffer.concat([Buffer.from('#!/bin/'), Buffer.from([0xff, 10])]))).toBeUndefined();
  });
});
