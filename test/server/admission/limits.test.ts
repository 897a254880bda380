import { describe, expect, it } from 'vitest';
import { addressAccount, createAdmissionGate, type AdmissionGate, type Pause } from '../../../server/admission/limits.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createTestClock } from '../../help/clock.ts';

const wrong = new SpiffeError('invalid', 'guess', 'wrong');
const limits = { failureMs: 1_000, concurrent: 2, waiting: 3 };

function fail(gate: AdmissionGate, ...accounts: readonly string[]): Promise<unknown> {
  return gate.run({ accounts }, () => Promise.reject(wrong), (error) => error === wrong);
}

function succeed(gate: AdmissionGate, ...accounts: readonly string[]): Promise<string> {
  return gate.run({ accounts }, async () => 'in', () => true);
}

describe('createAdmissionGate', () => {
  it('T-B01: keeps whoever failed out for a second, by any of its accounts', async () => {
    const clock = createTestClock();
    const gate = createAdmissionGate(clock, limits);
    await expect(fail(gate, 'address a', 'token t')).rejects.toBe(wrong);
    for (const account of ['address a', 'token t']) {
      await expect(succeed(gate, account)).rejects.toMatchObject({ kind: 'limited', reason: 'admission.failures' });
    }
    expect(await succeed(gate, 'address b')).toBe('in');
    await clock.advance(999);
    await expect(succeed(gate, 'address a')).rejects.toMatchObject({ reason: 'admission.failures' });
    await clock.advance(1);
    expect(await succeed(gate, 'address a')).toBe('in');
  });

  it('T-B01: failures that meet at once add up, so that one a second is all there is', async () => {
    const clock = createTestClock();
    const gate = createAdmissionGate(clock, limits);
    const outcomes = await Promise.allSettled(Array.from({ length: 5 }, () => fail(gate, 'address a')));
    const failed = outcomes.filter((outcome) => outcome.status === 'rejected' && outcome.reason === wrong).length;
    expect(failed).toBe(2);
    await clock.advance(1_999);
    await expect(succeed(gate, 'address a')).rejects.toMatchObject({ reason: 'admission.failures' });
    await clock.advance(1);
    expect(await succeed(gate, 'address a')).toBe('in');
  });

  it('counts only what is a failure', async () => {
    const gate = createAdmissionGate(createTestClock(), limits);
    const broken = new SpiffeError('unavailable', 'store.busy', 'busy');
    await expect(gate.run({ accounts: ['a'] }, () => Promise.reject(broken), () => false)).rejects.toBe(broken);
    expect(await succeed(gate, 'a')).toBe('in');
  });

  it('works on so many at once, lets so many wait, and refuses the rest', async () => {
    const gate = createAdmissionGate(createTestClock(), limits);
    const ends: (() => void)[] = [];
    let running = 0;
    let most = 0;
    const attempt = () =>
      gate.run(
        { accounts: [] },
        async () => {
          running += 1;
          most = Math.max(most, running);
          await new Promise<void>((resolve) => ends.push(resolve));
          running -= 1;
        },
        () => true,
      );
    const attempts = Array.from({ length: 5 }, attempt);
    await expect(attempt()).rejects.toMatchObject({ kind: 'limited', reason: 'admission.queue' });
    for (let done = 0; done < 5; done += 1) {
      while (ends.length === 0) await Promise.resolve();
      ends.shift()!();
    }
    await Promise.all(attempts);
    expect(most).toBe(2);
  });

  it('lends the turn while a node is waited for, and takes it back', async () => {
    const gate = createAdmissionGate(createTestClock(), { ...limits, concurrent: 1 });
    const answer = Promise.withResolvers<string>();
    let isBack = false;
    const slow = gate.run(
      { accounts: [] },
      async (pause: Pause) => {
        const text = await pause(() => answer.promise);
        isBack = true;
        return text;
      },
      () => true,
    );
    expect(await succeed(gate)).toBe('in');
    expect(isBack).toBe(false);
    answer.resolve('late');
    expect(await slow).toBe('late');
    expect(await succeed(gate)).toBe('in');
  });

  it('gives the turn back once when the wait fails', async () => {
    const gate = createAdmissionGate(createTestClock(), { ...limits, concurrent: 1, failureMs: 0 });
    for (let round = 0; round < 3; round += 1) {
      const attempt = gate.run({ accounts: [] }, (pause) => pause(() => Promise.reject(wrong)), () => true);
      await expect(attempt).rejects.toBe(wrong);
    }
    const both = await Promise.all([succeed(gate), succeed(gate)]);
    expect(both).toEqual(['in', 'in']);
  });
});

describe('addressAccount', () => {
  it.each([
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
    ['2001:DB8:1:2::9', '2001:db8:1:2'],
    ['2001:db8::1', '2001:db8:0:0'],
    ['2001:0db8:0000:0000::1', '2001:db8:0:0'],
    ['fe80::1%eth0', 'fe80:0:0:0'],
    ['::1', '0:0:0:0'],
  ])('counts %s as %s', (address, account) => {
    expect(addressAccount(address)).toBe(`address ${account}`);
  });
});
