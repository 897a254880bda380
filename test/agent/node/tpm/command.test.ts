import { describe, expect, it } from 'vitest';
import { createTpm, failedWith, responseCode, type TpmCommand } from '../../../../agent/node/tpm/command.ts';
import type { TpmDevice } from '../../../../agent/node/tpm/device.ts';
import { readRest } from '../../../../runtime/tpm/wire.ts';
import { createTestClock } from '../../../help/clock.ts';

const hex = (text: string): Buffer => Buffer.from(text, 'hex');
const failing = (code: number): Buffer => {
  const bytes = hex('80010000000a00000000');
  bytes.writeUInt32BE(code, 6);
  return bytes;
};

/** Answers what it was given, in turn, and remembers what was sent. */
function answering(...responses: readonly Buffer[]): TpmDevice & { readonly sent: string[] } {
  const sent: string[] = [];
  return {
    sent,
    transmit: (command) => {
      const response = responses[sent.length] ?? responses.at(-1);
      sent.push(Buffer.from(command).toString('hex'));
      return Promise.resolve(response ?? Buffer.alloc(0));
    },
    close: () => Promise.resolve(),
  };
}

const plain: TpmCommand = { name: 'GetRandom', code: 0x17b, parameters: hex('0004') };

describe('createTpm', () => {
  it('frames a command without authorization, as tpm2-tools send it', async () => {
    const device = answering(hex('80010000001000000000000411223344'));
    const { handle, parameters } = await createTpm(device, createTestClock()).run(plain);
    expect(device.sent).toEqual(['80010000000c0000017b0004']);
    expect(handle).toBe(0);
    expect(readRest(parameters)).toEqual(hex('000411223344'));
  });

  it('frames handles, a password and a session, and cuts the authorizations off the response', async () => {
    const device = answering(hex('8002000000180000000080000001000000021234000001' + '0000'));
    const { handle, parameters } = await createTpm(device, createTestClock()).run({
      name: 'Example',
      code: 0x147,
      handles: [0x8000_0000, 0x8000_0001],
      authorizations: [{ password: Buffer.from('pw') }, { session: 0x0300_0000 }],
      parameters: hex('abcd'),
      yieldsHandle: true,
    });
    expect(device.sent).toEqual([
      '8002' + '0000002c' + '00000147' + '80000000' + '80000001' + '00000014' + '40000009' + '0000' + '01' + '0002' + '7077' + '03000000' + '0000' + '01' + '0000' + 'abcd',
    ]);
    expect(handle).toBe(0x8000_0001);
    expect(readRest(parameters)).toEqual(hex('1234'));
  });

  it.each([
    ['yielded', responseCode.yielded],
    ['testing', responseCode.testing],
    ['rate limited', responseCode.nvRate],
    ['asked to retry', responseCode.retry],
  ])('sends a command again that was %s', async (_name, code) => {
    const clock = createTestClock();
    const device = answering(failing(code), failing(code), hex('80010000000a00000000'));
    let done = false;
    const running = createTpm(device, clock).run(plain).finally(() => (done = true));
    await clock.runUntil(() => done);
    await running;
    expect(device.sent).toHaveLength(3);
    expect(new Set(device.sent).size).toBe(1);
  });

  it('gives up after ten attempts half a second apart', async () => {
    const clock = createTestClock();
    const device = answering(failing(responseCode.retry));
    const startedAt = clock.monotonic();
    const outcome = createTpm(device, clock).run(plain).then(() => undefined, (error: unknown) => error);
    let settled = false;
    void outcome.then(() => (settled = true));
    await clock.runUntil(() => settled);
    expect(await outcome).toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.failed', detail: { command: 'GetRandom', code: '0x922' } });
    expect(device.sent).toHaveLength(10);
    expect(clock.monotonic() - startedAt).toBe(4_500);
  });

  it.each([
    // Session 1, session 2, and a handle of the first: the numbers are taken off.
    [0x98e, 'denied', 'evidence.tpm.authorization', '0x08e'],
    [0xa8e, 'denied', 'evidence.tpm.authorization', '0x08e'],
    [0x9a2, 'denied', 'evidence.tpm.authorization', '0x0a2'],
    [0x921, 'unavailable', 'evidence.tpm.lockout', '0x921'],
    [0x18b, 'unavailable', 'evidence.tpm.failed', '0x08b'],
    [0x1df, 'unavailable', 'evidence.tpm.failed', '0x09f'],
    [0x100, 'unavailable', 'evidence.tpm.failed', '0x100'],
    [0x902, 'unavailable', 'evidence.tpm.failed', '0x902'],
    // From the kernel's resource manager.
    [0x000b_0143, 'unavailable', 'evidence.tpm.failed', '0x143'],
  ] as const)('translates %i', async (code, kind, reason, told) => {
    const error: unknown = await createTpm(answering(failing(code)), createTestClock()).run(plain).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ kind, reason, detail: { command: 'GetRandom', code: told } });
    expect(failedWith(error, Number(told))).toBe(true);
    expect(failedWith(error, responseCode.integrity)).toBe(told === '0x09f');
    expect(failedWith(new Error('other'), Number(told))).toBe(false);
  });

  it.each([
    ['a response without a code', hex('800100000006')],
    ['a response whose parameters are cut off', hex('80020000000f0000000000000002ff')],
    ['a response without the handle it should have', hex('80010000000c000000000000')],
  ])('refuses %s', async (_name, response) => {
    const command: TpmCommand = response.length === 12 ? { ...plain, yieldsHandle: true } : plain;
    await expect(createTpm(answering(response), createTestClock()).run(command)).rejects.toMatchObject({ reason: expect.stringMatching(/^(?:tpm\.truncated|evidence\.tpm\.failed)$/) as string });
  });
});
